#include "conv_bias/conv_bias.h"

#include <ATen/ops/zeros.h>

#include "common/dispatch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {

at::Tensor conv_bias_add_(const at::Tensor& map, const std::optional<at::Tensor>& bias, bool relu) {
  const char* op = "conv_bias_add_";
  check_map(op, "map", map);
  TORCH_CHECK(kHasCudaKernels && runs_on_cuda(map), op, ": map must be on a CUDA device, got ", map.device());
  if (bias) {
    check_like(op, "bias", *bias, map);
    check_shape(op, "bias", *bias, {map.size(1)}, "(K)");
  }
  if constexpr (kHasCudaKernels) {
    if (map.numel() > 0 && (bias || relu)) {
      return conv_bias::add_cuda(map.contiguous(at::MemoryFormat::ChannelsLast),
                                 bias ? bias->contiguous() : at::Tensor(), relu);
    }
  }
  return map.contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor conv_bias_grad(const at::Tensor& grad_output) {
  check_map("conv_bias_grad", "grad_output", grad_output);
  at::Tensor grad_bias = at::zeros({grad_output.size(1)}, grad_output.options());
  if (grad_output.numel() > 0) {
    SEGNET_DISPATCH(grad_output, conv_bias::grad, grad_output.contiguous(at::MemoryFormat::ChannelsLast), grad_bias);
  }
  return grad_bias;
}

}  // namespace segnet_ext
