#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace segnet_ext {

// max_pool2d_with_codes_forward on plain tensors in eager mode, recording its graph: what Python does by the operators
// of the same names for all else, without its share of the time.
std::tuple<at::Tensor, at::Tensor> max_pool2d_with_codes_call(const at::Tensor& input, bool ceil_mode);

}  // namespace segnet_ext
