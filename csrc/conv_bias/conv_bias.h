#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace segnet_ext {

// The bias of a convolution, apart from its products where these are cuDNN's.

// The gradient of the bias, [K]: the sum of grad_output [N, K, H, W] over its pixels.
at::Tensor conv_bias_grad(const at::Tensor& grad_output);

namespace conv_bias {

// Maps channels_last, vectors contiguous, nothing empty.

// map [N, C, H, W] convolved by cuDNN with weight [K, C, k, k], plus bias [K], if there is one, rectified if asked for:
// [N, K, H, W], channels_last.
at::Tensor convolve_cuda(const at::Tensor& map, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         bool relu);
void grad_cpu(const at::Tensor& grad_output, at::Tensor& grad_bias);
void grad_cuda(const at::Tensor& grad_output, at::Tensor& grad_bias);

}  // namespace conv_bias
}  // namespace segnet_ext
