#include <ATen/Context.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "common/convolution.h"
#include "common/cuda_context.h"
#include "conv_bias/conv_bias.h"
#include "conv_bias/conv_bias_launch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::conv_bias {

namespace {

// In the memory of `map`.
at::Tensor add(const at::Tensor& map, const std::optional<at::Tensor>& bias, bool relu) {
  CudaContext context(map);
#if defined(SEGNET_HOST_CUDA)
  at::Tensor result = at::empty_like(map);  // the tests' executor runs every kernel twice
#else
  at::Tensor result = map;
#endif
  launch_add(context.launcher(), to_dtype(map.scalar_type()),
             {map.numel() / map.size(1), map.size(1), bias ? context.read(*bias, "bias") : nullptr, relu,
              context.read(map, "map"), context.write(result, "result")});
  return result;
}

// Whether cuDNN can be asked for all at once: it has bfloat16 from 8.0 on. It cannot be told to be deterministic then;
// its documentation names no forward algorithm that is not, and who asks torch for determinism does not depend on that.
bool adds_and_rectifies(const at::Tensor& map) {
  return map.is_cuda() && map.scalar_type() != at::kDouble && at::globalContext().userEnabledCuDNN() &&
         !wants_determinism() && CudaContext(map).launcher().arch() >= 80;
}

}  // namespace

at::Tensor convolve_cuda(const at::Tensor& map, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         bool relu) {
  if (bias && relu && adds_and_rectifies(map)) {
    return convolve_bias_relu(map, weight, *bias);
  }
  const at::Tensor output = convolve(map, weight);
  return bias || relu ? add(output, bias, relu) : output;
}

void grad_cuda(const at::Tensor& grad_output, at::Tensor& grad_bias) {
  CudaContext context(grad_output);
  const DType dtype = to_dtype(grad_output.scalar_type());
  GradParams params{};
  params.channels = grad_output.size(1);
  params.pixels = grad_output.numel() / params.channels;
  params.parts = grad_parts(dtype, params.pixels, params.channels);
  const at::Tensor partial = at::empty({params.parts, params.channels},
                                       grad_output.options().dtype(acc_scalar_type(grad_output.scalar_type())));
  params.grad_output = context.read(grad_output, "grad_output");
  params.partial = context.write(partial, "partial sums of grad_bias");
  params.grad_bias = context.write(grad_bias, "grad_bias");
  launch_grad(context.launcher(), dtype, params);
}

}  // namespace segnet_ext::conv_bias
