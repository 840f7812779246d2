#pragma once

#include <ATen/core/Tensor.h>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"

// BatchNorm and ReLU of a map, for the convolutions of bn_relu_conv2d on CUDA: those are cuDNN's, which wants the map
// made. On the CPU they make it on the fly.
namespace segnet_ext::bn_relu {

// All maps channels_last, nothing empty. grad_weight and grad_bias are [C] of the type of norm.mean. With
// `batch_statistics`, mean and variance are the batch's own and carry gradient to input.
void forward_cuda(const at::Tensor& input, const bn_relu_max_pool2d::Norm& norm, at::Tensor& output);
void backward_cuda(const at::Tensor& grad_output, const at::Tensor& input, const bn_relu_max_pool2d::Norm& norm,
                   bool batch_statistics, at::Tensor& grad_input, at::Tensor& grad_weight, at::Tensor& grad_bias);

}  // namespace segnet_ext::bn_relu
