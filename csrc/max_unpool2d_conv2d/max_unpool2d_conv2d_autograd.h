#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace segnet_ext {

// max_unpool2d_conv2d_forward on plain tensors in eager mode, recording its graph: what Python does by the operators of
// the same names for all else, without its share of the time.
at::Tensor max_unpool2d_conv2d_call(const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                                    const std::optional<at::Tensor>& bias, int64_t height, int64_t width, bool relu);

}  // namespace segnet_ext
