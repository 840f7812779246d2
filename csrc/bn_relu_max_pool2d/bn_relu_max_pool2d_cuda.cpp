#include <ATen/ops/empty.h>

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
  const at::Tensor partials = at::empty({3, params.parts, params.channels}, mean.options());
  const int64_t bytes = params.parts * params.channels * partials.element_size();
  params.input = context.read(input, "input");
  params.partial_sum = context.write(partials, "partial sums");
  params.partial_rest = static_cast<char*>(params.partial_sum) + bytes;
  params.partial_squares = static_cast<char*>(params.partial_rest) + bytes;
  params.mean = context.write(mean, "mean");
  params.var = context.write(var, "var");
  launch_stats(context.launcher(), dtype, params);
}

void running_stats_cuda(const at::Tensor& mean, const at::Tensor& var, double unbiased, double momentum,
                        at::Tensor& running_mean, at::Tensor& running_var) {
  CudaContext context(mean);
#if defined(SEGNET_HOST_CUDA)
  const at::Tensor mean_before = running_mean.clone(), var_before = running_var.clone();  // every kernel runs twice
#else
  const at::Tensor &mean_before = running_mean, &var_before = running_var;
#endif
  launch_running_stats(
      context.launcher(), to_dtype(mean.scalar_type()),
      {mean.numel(), momentum, unbiased, context.read(mean, "mean"), context.read(var, "var"),
       context.read(mean_before, "running_mean"), context.read(var_before, "running_var"),
       context.write(running_mean, "moved running_mean"), context.write(running_var, "moved running_var")});
}

void forward_cuda(const PoolShape& shape, const at::Tensor& input, const Norm& norm, at::Tensor& output,
                  at::Tensor& codes) {
  CudaContext context(input);
  launch_forward(context.launcher(), to_dtype(input.scalar_type()),
                 {shape, context.read(input, "input"), read_norm(context, norm), context.write(output, "output"),
                  static_cast<uint8_t*>(context.write(codes, "codes"))});
}

void backward_cuda(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                   const at::Tensor& codes, const at::Tensor& output, const Norm& norm, bool batch_statistics,
                   at::Tensor& grad_input, at::Tensor& grad_weight, at::Tensor& grad_bias) {
  CudaContext context(input);
  const DType dtype = to_dtype(input.scalar_type());
  const GradsWorkspace workspace(norm, backward_parts(dtype, shape));
  NormedBackwardParams params = workspace.params(context, norm, batch_statistics, grad_weight, grad_bias);
  params.shape = shape;
  params.grad_output = context.read(grad_output, "grad_output");
  params.input = context.read(input, "input");
  params.codes = static_cast<const uint8_t*>(context.read(codes, "codes"));
  params.output = output.defined() ? context.read(output, "output") : nullptr;
  params.grad_input = context.write(grad_input, "grad_input");
  launch_backward(context.launcher(), dtype, params);
}

}  // namespace segnet_ext::bn_relu_max_pool2d
