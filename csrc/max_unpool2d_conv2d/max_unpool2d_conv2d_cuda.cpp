#include <ATen/ops/empty.h>

#include "common/cuda_context.h"
#include "common/tf32.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_launch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::max_unpool2d_conv2d {
namespace {

void convolve(const Shape& shape, Direction direction, const at::Tensor& map, const at::Tensor& codes,
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
  arguments.weight = context.read(weight, "weight");
  arguments.bias = bias ? context.read(*bias, "bias") : nullptr;
  arguments.relu = relu;
  arguments.result = context.write(result, direction == Direction::kForward ? "output" : "grad_input");
  launch_conv(context.launcher(), dtype, plan, shape, direction, arguments);
}

}  // namespace

void forward_cuda(const Shape& shape, const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                  const std::optional<at::Tensor>& bias, bool relu, at::Tensor& output) {
  convolve(shape, Direction::kForward, input, codes, weight, bias ? std::optional(bias->contiguous()) : bias, relu,
           output);
}

void grad_input_cuda(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                     const at::Tensor& weight, at::Tensor& grad_input) {
  convolve(shape, Direction::kGradInput, grad_output, codes, weight, std::nullopt, /*relu=*/false, grad_input);
}

void grad_weight_cuda(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                      const at::Tensor& codes, at::Tensor& grad_weight, at::Tensor& grad_bias) {
  CudaContext context(input);
  const DType dtype = to_dtype(input.scalar_type());
  const GradWeightPlan plan = plan_grad_weight(context.launcher(), dtype, allow_tf32(), shape);
  const auto options = input.options().dtype(acc_scalar_type(input.scalar_type()));
  const at::Tensor partial = at::empty({plan.partial_elements(shape)}, options);
  const at::Tensor bias_partial = at::empty({plan.bias_parts * shape.out_channels}, options);
  GradWeightArguments arguments{};
  arguments.grad_output = context.read(grad_output, "grad_output");
  arguments.input = context.read(input, "input");
  arguments.codes = static_cast<const uint8_t*>(context.read(codes, "codes"));
  arguments.partial = context.write(partial, "partial sums of grad_weight");
  arguments.bias_partial = context.write(bias_partial, "partial sums of grad_bias");
  arguments.grad_weight = context.write(grad_weight, "grad_weight");
  arguments.grad_bias = context.write(grad_bias, "grad_bias");
  launch_grad_weight(context.launcher(), dtype, plan, shape, arguments);
}

}  // namespace segnet_ext::max_unpool2d_conv2d
