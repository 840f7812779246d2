#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"

namespace segnet_ext {

// Convolutions of stride 1 that keep the size: on the CPU 3x3 ones, on CUDA all, cuDNN's with kernels of ours around.
//
// What is convolved is input [N, C, H, W]; with mean and var [C], the BatchNorm and ReLU of it (weight and bias of the
// BatchNorm may be None); with codes [N, OH, OW, ceil(C / 4)], the max unpool of that to height x width, where input is
// [N, C, OH, OW].

// Checks what the functions below would, for kernels of other sizes, where they do not serve.
void bn_relu_conv2d_check(const at::Tensor& input, const std::optional<at::Tensor>& bn_weight,
                          const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
                          const std::optional<at::Tensor>& var, const std::optional<at::Tensor>& codes, int64_t height,
                          int64_t width, const at::Tensor& weight, const std::optional<at::Tensor>& bias);

// [N, K, height, width], channels_last, after ReLU if asked for.
at::Tensor bn_relu_conv2d_forward(const at::Tensor& input, const std::optional<at::Tensor>& bn_weight,
                                  const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
                                  const std::optional<at::Tensor>& var, double eps,
                                  const std::optional<at::Tensor>& codes, int64_t height, int64_t width,
                                  const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool relu);

// Gradients of input (channels_last) and of the BatchNorm's weight and bias ([C], in the dtype of mean; without mean
// they are empty). With `batch_statistics`, mean and var are the batch's own and carry gradient to input.
std::tuple<at::Tensor, at::Tensor, at::Tensor> bn_relu_conv2d_grad_input(
    const at::Tensor& grad_output, const at::Tensor& input, const std::optional<at::Tensor>& bn_weight,
    const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
    const std::optional<at::Tensor>& var, double eps, bool batch_statistics, const std::optional<at::Tensor>& codes,
    const at::Tensor& weight);

// Gradient of weight [K, C, k, k], channels_last or contiguous as that is. That of the bias is conv_bias_grad's.
at::Tensor bn_relu_conv2d_grad_weight(const at::Tensor& grad_output, const at::Tensor& input,
                                      const std::optional<at::Tensor>& bn_weight,
                                      const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
                                      const std::optional<at::Tensor>& var, double eps,
                                      const std::optional<at::Tensor>& codes, const at::Tensor& weight);

// Convolution, ReLU and the 2x2, stride-2 max pool in ceil mode: output [N, K, OH, OW], channels_last, and its codes
// [N, OH, OW, ceil(K / 4)].
std::tuple<at::Tensor, at::Tensor> conv2d_relu_max_pool2d(const at::Tensor& input, const at::Tensor& weight,
                                                          const std::optional<at::Tensor>& bias);

namespace bn_relu_conv2d {

// On CUDA, of any odd kernel; the arguments are checked and nothing is empty. Without `norm`, input is convolved as it
// is.
at::Tensor forward_cuda(const at::Tensor& input, const std::optional<bn_relu_max_pool2d::Norm>& norm,
                        const std::optional<at::Tensor>& codes, int64_t height, int64_t width, const at::Tensor& weight,
                        const std::optional<at::Tensor>& bias, bool relu);
std::tuple<at::Tensor, at::Tensor, at::Tensor> grad_input_cuda(const at::Tensor& grad_output, const at::Tensor& input,
                                                               const std::optional<bn_relu_max_pool2d::Norm>& norm,
                                                               bool batch_statistics,
                                                               const std::optional<at::Tensor>& codes,
                                                               const at::Tensor& weight);
at::Tensor grad_weight_cuda(const at::Tensor& grad_output, const at::Tensor& input,
                            const std::optional<bn_relu_max_pool2d::Norm>& norm, const std::optional<at::Tensor>& codes,
                            int64_t kernel_size, bool channels_last);

}  // namespace bn_relu_conv2d
}  // namespace segnet_ext
