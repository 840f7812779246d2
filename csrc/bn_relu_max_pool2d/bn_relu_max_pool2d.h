#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "common/pool_shape.h"

namespace segnet_ext {

// Mean and biased variance of each channel of input [N, C, H, W]: [C], float64 for float64 maps, else float32.
std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_stats(const at::Tensor& input);

// BatchNorm with the given mean and variance, ReLU, 2x2/2 max pool: output [N, C, OH, OW], channels_last, and codes
// [N, OH, OW, ceil(C / 4)]. weight and bias are [C]; None stands for ones and zeros.
std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_forward(const at::Tensor& input,
                                                              const std::optional<at::Tensor>& weight,
                                                              const std::optional<at::Tensor>& bias,
                                                              const at::Tensor& mean, const at::Tensor& var, double eps,
                                                              bool ceil_mode);

// Gradients of input (channels_last), weight and bias ([C], in the dtype of mean). With `batch_statistics`, mean and
// var are the batch's own and carry gradient to input.
std::tuple<at::Tensor, at::Tensor, at::Tensor> bn_relu_max_pool2d_backward(
    const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& codes,
    const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias, const at::Tensor& mean,
    const at::Tensor& var, double eps, bool batch_statistics);

namespace bn_relu_max_pool2d {

// BatchNorm as y = x * scale + shift, all [C] of the type that kernels accumulate in.
struct Affine {
  at::Tensor mean, invstd, scale, shift;
};

// Checks the arguments of a BatchNorm over the channels of input in the name of `op`.
void check_affine(const char* op, const at::Tensor& input, const std::optional<at::Tensor>& weight,
                  const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var);
// The affine of a BatchNorm over the channels of input; its arguments are checked in the name of `op`.
Affine make_affine(const char* op, const at::Tensor& input, const std::optional<at::Tensor>& weight,
                   const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var, double eps);
// From sums [2, parts, C] of the gradient and of gradient * (x - mean) to the gradients of weight and bias, and to what
// the gradient of the input needs of them; `values` pixels a channel.
void merge_sums(const at::Tensor& partial, int64_t values, const at::Tensor& invstd, at::Tensor& grad_weight,
                at::Tensor& grad_bias, at::Tensor& grad_mean, at::Tensor& projection);

// All maps channels_last, codes contiguous, nothing empty.
void stats_cpu(const at::Tensor& input, at::Tensor& mean, at::Tensor& var);
// Fills what `affine` has beside the mean. An undefined weight stands for ones, an undefined bias for zeros.
void fill_affine_cpu(Affine& affine, const at::Tensor& var, const at::Tensor& weight, const at::Tensor& bias,
                     double eps);
void forward_cpu(const PoolShape& shape, const at::Tensor& input, const Affine& affine, at::Tensor& output,
                 at::Tensor& codes);
void backward_cpu(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                  const at::Tensor& codes, const Affine& affine, bool batch_statistics, at::Tensor& grad_input,
                  at::Tensor& grad_weight, at::Tensor& grad_bias);

void stats_cuda(const at::Tensor& input, at::Tensor& mean, at::Tensor& var);
void fill_affine_cuda(Affine& affine, const at::Tensor& var, const at::Tensor& weight, const at::Tensor& bias,
                      double eps);
void forward_cuda(const PoolShape& shape, const at::Tensor& input, const Affine& affine, at::Tensor& output,
                  at::Tensor& codes);
void backward_cuda(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                   const at::Tensor& codes, const Affine& affine, bool batch_statistics, at::Tensor& grad_input,
                   at::Tensor& grad_weight, at::Tensor& grad_bias);

}  // namespace bn_relu_max_pool2d
}  // namespace segnet_ext
