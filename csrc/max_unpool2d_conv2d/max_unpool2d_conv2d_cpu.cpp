#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "common/parallel.h"
#include "conv3x3/conv3x3.h"
#include "conv_bias/conv_bias.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_kernel.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::max_unpool2d_conv2d {
namespace {

at::Tensor packed_weight(DType dtype, const Shape& shape, const ChannelBlocks& blocks, bool flip,
                         const at::Tensor& weight) {
  at::Tensor packed = at::empty({blocks.count, shape.in_channels, shape.taps(), blocks.width},
                                weight.options().dtype(acc_scalar_type(weight.scalar_type())));
  pack_weight(dtype, shape, blocks, flip, weight.contiguous().const_data_ptr(), packed.mutable_data_ptr());
  return packed;
}

// Any task of these kernels multiplies at least thousands of values: each is worth a thread.
constexpr int64_t kWorthAThread = kGrainElements;

// Kernels of 3 with channels enough are Winograd's: a dense product of as few multiplications runs faster than a sparse
// one. The others gather.
bool is_conv3x3(const Shape& shape) {
  return conv3x3::suits(shape.kernel_size, shape.in_channels, shape.out_channels);
}
conv3x3::Shape conv3x3_shape(const Shape& shape) {
  return {shape.batch, shape.in_channels, shape.out_channels, shape.height, shape.width};
}
conv3x3::Source unpooled(const Shape& shape, const at::Tensor& input, const at::Tensor& codes) {
  return {input.const_data_ptr(), codes.const_data_ptr<uint8_t>(), nullptr, nullptr, shape.pooled_height,
          shape.pooled_width};
}

}  // namespace

void forward_cpu(const Shape& shape, const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                 const std::optional<at::Tensor>& bias, bool relu, at::Tensor& output) {
  if (is_conv3x3(shape)) {
    const at::Tensor bias_vector = bias ? bias->contiguous() : at::Tensor();
    conv3x3::ForwardParams params{};
    params.shape = conv3x3_shape(shape);
    params.source = unpooled(shape, input, codes);
    const at::Tensor dense = conv3x3::dense_weight(weight);
    params.weight = conv3x3::forward_weight(dense);
    params.bias = bias ? bias_vector.const_data_ptr() : nullptr;
    params.relu = relu;
    params.result = conv3x3::Result::kMap;
    params.output = output.mutable_data_ptr();
    return conv3x3::run_forward(input.scalar_type(), params);
  }
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
  if (is_conv3x3(shape)) {
    return conv3x3::run_grad_input(grad_output, weight, codes.const_data_ptr<uint8_t>(), grad_input);
  }
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
                     const at::Tensor& codes, at::Tensor& grad_weight) {
  if (is_conv3x3(shape)) {
    return conv3x3::run_grad_weight(conv3x3_shape(shape), unpooled(shape, input, codes), grad_output, grad_weight);
  }
  const DType dtype = to_dtype(input.scalar_type());
  grad_weight = at::empty(grad_weight.sizes(), grad_weight.options());  // contiguous
  const GradWeightParams params{shape,
                                grad_weight_blocks(dtype, shape),
                                grad_output.const_data_ptr(),
                                input.const_data_ptr(),
                                codes.const_data_ptr<uint8_t>(),
                                grad_weight.mutable_data_ptr()};
  parallel_tasks(grad_weight_tasks(shape, params.blocks), kWorthAThread,
                 [&](int64_t begin, int64_t end) { max_unpool2d_conv2d::grad_weight(dtype, params, begin, end); });
}

}  // namespace segnet_ext::max_unpool2d_conv2d

namespace segnet_ext::conv_bias {

using namespace max_unpool2d_conv2d;

void grad_cpu(const at::Tensor& grad_output, at::Tensor& grad_bias) {
  Shape shape{};
  shape.batch = grad_output.size(0);
  shape.out_channels = grad_output.size(1);
  shape.height = grad_output.size(2);
  shape.width = grad_output.size(3);
  const GradBiasParams params{shape, grad_output.const_data_ptr(), grad_bias.mutable_data_ptr()};
  parallel_tasks(grad_bias_tasks(shape), kWorthAThread, [&](int64_t begin, int64_t end) {
    max_unpool2d_conv2d::grad_bias(to_dtype(grad_output.scalar_type()), params, begin, end);
  });
}

}  // namespace segnet_ext::conv_bias
