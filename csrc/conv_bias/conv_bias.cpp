#include "conv_bias/conv_bias.h"

#include <ATen/ops/zeros.h>

#include "common/dispatch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {
namespace {

void check_bias_map(const char* op, const char* name, const at::Tensor& map) {
  check_map(op, name, map);
  TORCH_CHECK(kHasCudaKernels && runs_on_cuda(map), op, ": ", name, " must be on a CUDA device, got ", map.device());
}

}  // namespace

at::Tensor conv_bias_add_(const at::Tensor& map, const std::optional<at::Tensor>& bias, bool relu) {
  const char* op = "conv_bias_add_";
  check_bias_map(op, "map", map);
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
  check_bias_map("conv_bias_grad", "grad_output", grad_output);
  at::Tensor grad_bias = at::zeros({grad_output.size(1)}, grad_output.options());
  if constexpr (kHasCudaKernels) {
    if (grad_output.numel() > 0) {
      conv_bias::grad_cuda(grad_output.contiguous(at::MemoryFormat::ChannelsLast), grad_bias);
    }
  }
  return grad_bias;
}

}  // namespace segnet_ext
