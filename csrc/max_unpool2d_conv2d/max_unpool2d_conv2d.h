#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace segnet_ext {

// Max unpool of input [N, C, OH, OW] by its codes to height x width, then a stride-1 convolution with weight [K, C, k,
// k] (k odd, padding k / 2) and bias [K], then ReLU if asked for: [N, K, height, width], channels_last.
at::Tensor max_unpool2d_conv2d_forward(const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                                       const std::optional<at::Tensor>& bias, int64_t height, int64_t width, bool relu);

// Gradient of the pooled map [N, C, OH, OW], channels_last.
at::Tensor max_unpool2d_conv2d_grad_input(const at::Tensor& grad_output, const at::Tensor& codes,
                                          const at::Tensor& weight, int64_t pooled_height, int64_t pooled_width);

// Gradient of weight [K, C, k, k], channels_last or contiguous. That of the bias is conv_bias_grad's.
at::Tensor max_unpool2d_conv2d_grad_weight(const at::Tensor& grad_output, const at::Tensor& input,
                                           const at::Tensor& codes, int64_t kernel_size, bool channels_last);

namespace max_unpool2d_conv2d {

struct Shape;

// All maps channels_last, codes contiguous, weight of any layout, nothing empty. grad_weight, to be filled, may be
// replaced by a contiguous one.
void forward_cpu(const Shape& shape, const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                 const std::optional<at::Tensor>& bias, bool relu, at::Tensor& output);
void grad_input_cpu(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                    const at::Tensor& weight, at::Tensor& grad_input);
void grad_weight_cpu(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                     const at::Tensor& codes, at::Tensor& grad_weight);

void forward_cuda(const Shape& shape, const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                  const std::optional<at::Tensor>& bias, bool relu, at::Tensor& output);
void grad_input_cuda(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                     const at::Tensor& weight, at::Tensor& grad_input);
void grad_weight_cuda(const Shape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                      const at::Tensor& codes, at::Tensor& grad_weight);

}  // namespace max_unpool2d_conv2d
}  // namespace segnet_ext
