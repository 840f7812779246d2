#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"

namespace segnet_ext {

// BatchNorm and ReLU of a map, for the convolutions of bn_relu_conv2d on CUDA: those are cuDNN's, which wants the map
// made. On the CPU they make it on the fly.

// BatchNorm with the given mean and variance and ReLU of input [N, C, H, W]: a map like it, channels_last. weight and
// bias are [C]; None stands for ones and zeros.
at::Tensor bn_relu_forward(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                           const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var,
                           double eps);

// Gradients of input (channels_last), weight and bias ([C], in the dtype of mean). With `batch_statistics`, mean and
// var are the batch's own and carry gradient to input.
std::tuple<at::Tensor, at::Tensor, at::Tensor> bn_relu_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                                                const std::optional<at::Tensor>& weight,
                                                                const std::optional<at::Tensor>& bias,
                                                                const at::Tensor& mean, const at::Tensor& var,
                                                                double eps, bool batch_statistics);

namespace bn_relu {

// All maps channels_last, nothing empty.
void forward_cuda(const at::Tensor& input, const bn_relu_max_pool2d::Norm& norm, at::Tensor& output);
void backward_cuda(const at::Tensor& grad_output, const at::Tensor& input, const bn_relu_max_pool2d::Norm& norm,
                   bool batch_statistics, at::Tensor& grad_input, at::Tensor& grad_weight, at::Tensor& grad_bias);

}  // namespace bn_relu
}  // namespace segnet_ext
