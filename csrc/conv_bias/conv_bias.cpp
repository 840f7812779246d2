#include "conv_bias/conv_bias.h"

#include <ATen/ops/empty.h>

#include "common/dispatch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {

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
