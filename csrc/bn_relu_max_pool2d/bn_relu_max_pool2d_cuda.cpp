#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_workspace.h"
#include "common/cuda_context.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::bn_relu_max_pool2d {

void stats_cuda(const at::Tensor& input, at::Tensor& mean, at::Tensor& var) {
  CudaContext context(input);
  const DType dtype = to_dtype(input.scalar_type());
  TwoStageStatsParams params{};
  params.channels = input.size(1);
  params.pixels = input.numel() / params.channels;
  params.parts = stats_parts(dtype, params.pixels, params.channels);
  const at::Tensor partial_sum = at::empty({params.parts, params.channels}, mean.options());
  const at::Tensor partial_rest = at::empty_like(partial_sum), partial_squares = at::empty_like(partial_sum);
  params.input = context.read(input, "input");
  params.partial_sum = context.write(partial_sum, "partial_sum");
  params.partial_rest = context.write(partial_rest, "partial_rest");
  params.partial_squares = context.write(partial_squares, "partial_squares");
  params.mean = context.write(mean, "mean");
  params.var = context.write(var, "var");
  launch_stats(context.launcher(), dtype, params);
}

void fill_affine_cuda(Affine& affine, const at::Tensor& var, const at::Tensor& weight, const at::Tensor& bias,
                      double eps) {
  CudaContext context(var);
  AffineParams params{};
  params.channels = var.numel();
  params.eps = eps;
  params.mean = context.read(affine.mean, "mean");
  params.var = context.read(var, "var");
  params.weight = weight.defined() ? context.read(weight, "weight") : nullptr;
  params.bias = bias.defined() ? context.read(bias, "bias") : nullptr;
  params.invstd = context.write(affine.invstd, "invstd");
  params.scale = context.write(affine.scale, "scale");
  params.shift = context.write(affine.shift, "shift");
  launch_affine(context.launcher(), to_dtype(var.scalar_type()), params);
}

void forward_cuda(const PoolShape& shape, const at::Tensor& input, const Affine& affine, at::Tensor& output,
                  at::Tensor& codes) {
  CudaContext context(input);
  launch_forward(
      context.launcher(), to_dtype(input.scalar_type()),
      {shape, context.read(input, "input"), context.read(affine.scale, "scale"), context.read(affine.shift, "shift"),
       context.write(output, "output"), static_cast<uint8_t*>(context.write(codes, "codes"))});
}

void backward_cuda(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                   const at::Tensor& codes, const Affine& affine, bool batch_statistics, at::Tensor& grad_input,
                   at::Tensor& grad_weight, at::Tensor& grad_bias) {
  CudaContext context(input);
  const DType dtype = to_dtype(input.scalar_type());
  const GradsWorkspace workspace(affine, backward_parts(dtype, shape));
  MergeGradsParams params = workspace.params(context, affine, batch_statistics, grad_weight, grad_bias);
  params.backward.shape = shape;
  params.backward.grad_output = context.read(grad_output, "grad_output");
  params.backward.input = context.read(input, "input");
  params.backward.codes = static_cast<const uint8_t*>(context.read(codes, "codes"));
  params.backward.grad_input = context.write(grad_input, "grad_input");
  launch_backward(context.launcher(), dtype, params);
}

}  // namespace segnet_ext::bn_relu_max_pool2d
