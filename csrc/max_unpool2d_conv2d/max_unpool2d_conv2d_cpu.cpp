#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "common/parallel.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_kernel.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::max_unpool2d_conv2d {
namespace {

at::Tensor packed_weight(DType dtype, const Shape& shape, const ChannelBlocks& blocks, bool flip,
                         const at::Tensor& weight) {
  at::Tensor packed = at::empty({blocks.count, shape.in_channels, shape.taps(), blocks.width},
                                weight.options().dtype(acc_scalar_type(weight.scalar_type())));
  pack_weight(dtype, shape, blocks, flip, weight.const_data_ptr(), packed.mutable_data_ptr());
  return packed;
}

// Any task of these kernels multiplies at least thousands of values: each is worth a thread.
constexpr int64_t kWorthAThread = kGrainElements;

}  // namespace

void forward_cpu(const Shape& shape, const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                 const std::optional<at::Tensor>& bias, bool relu, at::Tensor& output) {
  const DType dtype = to_dtype(input.scalar_type());
  const ChannelBlocks blocks = forward_blocks(dtype, shape);
  const at::Tensor packed = packed_weight(dtype, shape, blocks, /*flip=*/false, weight);
  at::Tensor padded_bias = at::zeros({blocks.count * blocks.width}, packed.options());
  if (bias) {
    padded_bias.narrow(0, 0, shape.out_channels).copy_(*bias);
  }
  const ForwardParams params{shape,
                             blocks,
                             input.const_data_ptr(),
                             codes.const_data_ptr<uint8_t>(),
                             packed.const_data_ptr(),
                             padded_bias.const_data_ptr(),
                             relu,
                             output.mutable_data_ptr()};
  parallel_tasks(forward_tasks(shape), kWorthAThread,
                 [&](int64_t begin, int64_t end) { forward(dtype, params, begin, end); });
}

void grad_input_cpu(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                    const at::Tensor& weight, at::Tensor& grad_input) {
  const DType dtype = to_dtype(grad_output.scalar_type());
  const ChannelBlocks blocks = grad_input_blocks(dtype, shape);
  const at::Tensor packed = packed_weight(dtype, shape, blocks, /*flip=*/true, weight);
  const GradInputParams params{shape,
                               blocks,
                               grad_output.const_data_ptr(),
                               codes.const_data_ptr<uint8_t>(),
                               packed.const_data_ptr(),
                               grad_input.mutable_data_ptr()};
  parallel_tasks(grad_input_tasks(shape), kWorthAThread,
                 [&](int64_t begin, int64_t end) { max_unpool2d_conv2d::grad_input(dtype, params, begin, end); });
}

void grad_weight_cpu(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                     const at::Tensor& codes, at::Tensor& grad_weight, at::Tensor& grad_bias) {
  const DType dtype = to_dtype(input.scalar_type());
  const GradWeightParams params{shape,
                                grad_weight_blocks(dtype, shape),
                                grad_output.const_data_ptr(),
                                input.const_data_ptr(),
                                codes.const_data_ptr<uint8_t>(),
                                grad_weight.mutable_data_ptr()};
  parallel_tasks(grad_weight_tasks(shape, params.blocks), kWorthAThread,
                 [&](int64_t begin, int64_t end) { max_unpool2d_conv2d::grad_weight(dtype, params, begin, end); });
  const GradBiasParams bias_params{shape, grad_output.const_data_ptr(), grad_bias.mutable_data_ptr()};
  parallel_tasks(grad_bias_tasks(shape), kWorthAThread,
                 [&](int64_t begin, int64_t end) { max_unpool2d_conv2d::grad_bias(dtype, bias_params, begin, end); });
}

}  // namespace segnet_ext::max_unpool2d_conv2d
