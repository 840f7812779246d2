#include "conv_bias/conv_bias.h"

#include <ATen/ops/empty.h>

#include "common/convolution.h"
#include "common/dispatch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {

at::Tensor convolve_with_bias(const at::Tensor& map, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              bool relu) {
  const char* op = "conv2d";
  check_map(op, "input", map);
  TORCH_CHECK(kHasCudaKernels && runs_on_cuda(map), op, ": input must be on a CUDA device, got ", map.device());
  if (bias) {
    check_like(op, "bias", *bias, map);
    check_shape(op, "bias", *bias, {weight.size(0)}, "(K)");
  }
  if (bias && relu && can_convolve_bias_relu(map)) {
    return convolve_bias_relu(map, weight, *bias);
  }
  const at::Tensor output = convolve(map, weight);
  if constexpr (kHasCudaKernels) {
    if (output.numel() > 0 && (bias || relu)) {
      return conv_bias::add_cuda(output, bias ? bias->contiguous() : at::Tensor(), relu);
    }
  }
  return output;
}

at::Tensor conv_bias_grad(const at::Tensor& grad_output) {
  check_map("conv_bias_grad", "grad_output", grad_output);
  at::Tensor grad_bias = at::empty({grad_output.size(1)}, grad_output.options());
  if (grad_output.numel() == 0) {
    grad_bias.zero_();
  } else {
    SEGNET_DISPATCH(grad_output, conv_bias::grad, grad_output.contiguous(at::MemoryFormat::ChannelsLast), grad_bias);
  }
  return grad_bias;
}

}  // namespace segnet_ext
