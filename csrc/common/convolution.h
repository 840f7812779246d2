// torch's convolutions of stride 1 with the padding that keeps the size, for an odd square kernel; cuDNN's on CUDA.
// There they are told to be deterministic, but for convolve_bias_relu: cuDNN may sum gradients by atomics, in an order
// of its own.
#pragma once

#include <ATen/core/Tensor.h>

namespace segnet_ext {

// The layouts of a weight, and of its gradient.
inline at::MemoryFormat weight_format(bool channels_last) {
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

// Whether a weight is channels_last, as in a model that is; its gradient is made to lie likewise.
inline bool is_channels_last(const at::Tensor& weight) {
  return weight.is_contiguous(at::MemoryFormat::ChannelsLast) && !weight.is_contiguous();
}

// Whether the user has asked torch for deterministic convolutions.
bool wants_determinism();

// map [N, C, H, W], weight [K, C, k, k]: [N, K, H, W], channels_last.
at::Tensor convolve(const at::Tensor& map, const at::Tensor& weight);

// The same plus bias [K], rectified, by cuDNN alone: to the sums before it writes them. Not for float64.
at::Tensor convolve_bias_relu(const at::Tensor& map, const at::Tensor& weight, const at::Tensor& bias);

// grad_output [N, K, H, W], weight [K, C, k, k]: the gradient of the map, [N, C, H, W], channels_last.
at::Tensor convolve_grad_map(const at::Tensor& grad_output, const at::Tensor& weight);

// grad_output [N, K, H, W], map [N, C, H, W]: the gradient of the weight, [K, C, k, k], in the layout that it comes in.
at::Tensor convolve_grad_weight(const at::Tensor& grad_output, const at::Tensor& map, int64_t kernel_size);

}  // namespace segnet_ext
