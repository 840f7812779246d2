#include <ATen/ops/empty.h>

#include <cstdlib>
#include <string>

#include "common/convolution.h"
#include "common/cuda_context.h"
#include "common/tf32.h"
#include "conv_bias/conv_bias.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_launch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::max_unpool2d_conv2d {
namespace {

void run_fused(const Shape& shape, Direction direction, const at::Tensor& map, const at::Tensor& codes,
               const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool relu, at::Tensor& result) {
  CudaContext context(map);
  const DType dtype = to_dtype(map.scalar_type());
  const ConvPlan plan = plan_conv(context.launcher(), dtype, allow_tf32(), shape, direction);
  ConvArguments arguments{};
  at::Tensor packed;
  if (!plan.direct) {
    packed = at::empty({plan.packed_bytes}, map.options().dtype(at::kByte));
    arguments.packed = context.write(packed, "packed weight");
  }
  arguments.map = context.read(map, direction == Direction::kForward ? "input" : "grad_output");
  arguments.codes = static_cast<const uint8_t*>(context.read(codes, "codes"));
  const at::Tensor contiguous_weight = weight.contiguous();
  arguments.weight = context.read(contiguous_weight, "weight");
  arguments.bias = bias ? context.read(*bias, "bias") : nullptr;
  arguments.relu = relu;
  arguments.result = context.write(result, direction == Direction::kForward ? "output" : "grad_input");
  launch_conv(context.launcher(), dtype, plan, shape, direction, arguments);
}

// Whether nothing is to be left to cuDNN, SEGNET_EXT_CUDA_CONV=fused: for less memory, and to test the fused kernels on
// a GPU that has a faster way.
bool is_always_fused() {
  static const bool always = [] {
    const char* text = std::getenv("SEGNET_EXT_CUDA_CONV");
    const std::string choice = text == nullptr ? "" : text;
    TORCH_CHECK_VALUE(choice.empty() || choice == "fused", "SEGNET_EXT_CUDA_CONV must be fused or unset, got '", choice,
                      "'");
    return !choice.empty();
  }();
  return always;
}

bool is_dense(const at::Tensor& map) {
  const int arch = CudaContext(map).launcher().arch();
  return !is_always_fused() && prefers_dense(choose_math(to_dtype(map.scalar_type()), arch, allow_tf32()), arch);
}

PoolShape pool_of(const Shape& shape) {
  return {shape.batch, shape.in_channels, shape.height, shape.width, shape.pooled_height, shape.pooled_width};
}

at::Tensor unpool(const Shape& shape, const at::Tensor& input, const at::Tensor& codes) {
  at::Tensor unpooled = max_pool2d_with_codes::empty_output(input, shape.height, shape.width);
  max_pool2d_with_codes::backward_cuda(pool_of(shape), input, codes, unpooled);
  return unpooled;
}

}  // namespace

void forward_cuda(const Shape& shape, const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                  const std::optional<at::Tensor>& bias, bool relu, at::Tensor& output) {
  const std::optional<at::Tensor> whole_bias = bias ? std::optional(bias->contiguous()) : bias;
  if (is_dense(input)) {
    output.reset();
    output = conv_bias::convolve_cuda(unpool(shape, input, codes), weight, whole_bias, relu);
    return;
  }
  run_fused(shape, Direction::kForward, input, codes, weight, whole_bias, relu, output);
}

void grad_input_cuda(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                     const at::Tensor& weight, at::Tensor& grad_input) {
  if (is_dense(grad_output)) {
    const at::Tensor grad_unpooled = convolve_grad_map(grad_output, weight);
    return max_pool2d_with_codes::gather_cuda(pool_of(shape), grad_unpooled, codes, grad_input);
  }
  run_fused(shape, Direction::kGradInput, grad_output, codes, weight, std::nullopt, /*relu=*/false, grad_input);
}

void grad_weight_cuda(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                      const at::Tensor& codes, at::Tensor& grad_weight) {
  if (is_dense(input)) {
    grad_weight = convolve_grad_weight(grad_output, unpool(shape, input, codes), shape.kernel_size);
    return;
  }
  grad_weight = at::empty(grad_weight.sizes(), grad_weight.options());  // contiguous
  CudaContext context(input);
  const DType dtype = to_dtype(input.scalar_type());
  const GradWeightPlan plan = plan_grad_weight(context.launcher(), dtype, allow_tf32(), shape);
  const auto options = input.options().dtype(acc_scalar_type(input.scalar_type()));
  const at::Tensor partial = at::empty({plan.partial_elements(shape)}, options);
  GradWeightArguments arguments{};
  arguments.grad_output = context.read(grad_output, "grad_output");
  arguments.input = context.read(input, "input");
  arguments.codes = static_cast<const uint8_t*>(context.read(codes, "codes"));
  arguments.partial = context.write(partial, "partial sums of grad_weight");
  arguments.grad_weight = context.write(grad_weight, "grad_weight");
  launch_grad_weight(context.launcher(), dtype, plan, shape, arguments);
}

}  // namespace segnet_ext::max_unpool2d_conv2d
