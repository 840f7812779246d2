#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace segnet_ext {

// segnet_ext.ops.bn_relu_conv2d and conv2d on plain tensors in eager mode, recording their graph: what Python does by
// the operators of the same names for all else, without its share of the time. A convolution of input itself unless it
// `normalises`; then the statistics are the batch's in training, and move the running ones if those are given, else the
// running ones. The arguments that have to do with each other are checked by Python.
at::Tensor bn_relu_conv2d_call(const at::Tensor& input, bool normalises, const std::optional<at::Tensor>& bn_weight,
                               const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& running_mean,
                               const std::optional<at::Tensor>& running_var, bool training, double momentum, double eps,
                               const std::optional<at::Tensor>& codes, int64_t height, int64_t width,
                               const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool relu);

}  // namespace segnet_ext
