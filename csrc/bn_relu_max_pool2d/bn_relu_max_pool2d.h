#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "common/pool_shape.h"

namespace segnet_ext {

// Mean and biased variance of each channel of input [N, C, H, W]: [C], float64 for float64 maps, else float32.
std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_stats(const at::Tensor& input);

// Moves running statistics [C] in place towards a batch's, which bn_relu_max_pool2d_stats found over `values` values a
// channel, the variance without bias. An empty batch says nothing about the data. All are of one shape.
void update_running_stats(const at::Tensor& mean, const at::Tensor& var, int64_t values, at::Tensor running_mean,
                          at::Tensor running_var, double momentum);

// BatchNorm with the given mean and variance, ReLU, 2x2/2 max pool: output [N, C, OH, OW], channels_last, and codes
// [N, OH, OW, ceil(C / 4)]. weight and bias are [C]; None stands for ones and zeros.
std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_forward(const at::Tensor& input,
                                                              const std::optional<at::Tensor>& weight,
                                                              const std::optional<at::Tensor>& bias,
                                                              const at::Tensor& mean, const at::Tensor& var, double eps,
                                                              bool ceil_mode);

// Gradients of input (channels_last), weight and bias ([C], in the dtype of mean). With `batch_statistics`, mean and
// var are the batch's own and carry gradient to input. `output` of the forward pass spares a pass over the input where
// it says as much: with batch statistics, in float32 and float64.
std::tuple<at::Tensor, at::Tensor, at::Tensor> bn_relu_max_pool2d_backward(
    const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& codes,
    const std::optional<at::Tensor>& output, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var, double eps,
    bool batch_statistics);

namespace bn_relu_max_pool2d {

// A BatchNorm, its vectors [C] of the type that kernels accumulate in, contiguous and aligned for vector accesses. An
// undefined weight stands for ones, an undefined bias for zeros.
struct Norm {
  at::Tensor mean, var, weight, bias;
  double eps;
};

// One of the vectors over channels that lie in a tensor [rows, C].
inline void* row_of(const at::Tensor& rows, int64_t index) {
  return static_cast<char*>(rows.data_ptr()) + index * rows.size(1) * static_cast<int64_t>(rows.itemsize());
}

// The same as y = x * scale + shift, for the CPU's kernels; those of CUDA compute it where they need it.
struct Affine {
  at::Tensor mean;
  at::Tensor rows;  // [3, C]

  const void* invstd() const { return row_of(rows, 0); }
  const void* scale() const { return row_of(rows, 1); }
  const void* shift() const { return row_of(rows, 2); }
};

// Checks the arguments of a BatchNorm over the channels of input in the name of `op`.
void check_affine(const char* op, const at::Tensor& input, const std::optional<at::Tensor>& weight,
                  const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var);
// A BatchNorm over the channels of input; its arguments are checked in the name of `op`.
Norm make_norm(const char* op, const at::Tensor& input, const std::optional<at::Tensor>& weight,
               const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var, double eps);
Affine make_affine(const Norm& norm);
// From sums [2, parts, C] of the gradient and of gradient * (x - mean) to the gradients of weight and bias, and to what
// the gradient of the input needs of them: grad_offset and grad_slope, [C] of mean's dtype. `values` pixels a channel.
void merge_sums(const double* partial, int64_t parts, int64_t values, const Affine& affine, at::Tensor& grad_weight,
                at::Tensor& grad_bias, void* grad_offset, void* grad_slope);

// Whether backward has use for the output of the forward pass.
inline bool backward_wants_output(const at::Tensor& input, bool batch_statistics) {
  return batch_statistics && (input.scalar_type() == at::kFloat || input.scalar_type() == at::kDouble);
}

// All maps channels_last, codes contiguous, nothing empty. `output` is undefined or what backward wants.
void stats_cpu(const at::Tensor& input, at::Tensor& mean, at::Tensor& var);
void running_stats_cpu(const at::Tensor& mean, const at::Tensor& var, double unbiased, double momentum,
                       at::Tensor& running_mean, at::Tensor& running_var);
void forward_cpu(const PoolShape& shape, const at::Tensor& input, const Norm& norm, at::Tensor& output,
                 at::Tensor& codes);
void backward_cpu(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                  const at::Tensor& codes, const at::Tensor& output, const Norm& norm, bool batch_statistics,
                  at::Tensor& grad_input, at::Tensor& grad_weight, at::Tensor& grad_bias);

void stats_cuda(const at::Tensor& input, at::Tensor& mean, at::Tensor& var);
void running_stats_cuda(const at::Tensor& mean, const at::Tensor& var, double unbiased, double momentum,
                        at::Tensor& running_mean, at::Tensor& running_var);
void forward_cuda(const PoolShape& shape, const at::Tensor& input, const Norm& norm, at::Tensor& output,
                  at::Tensor& codes);
void backward_cuda(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                   const at::Tensor& codes, const at::Tensor& output, const Norm& norm, bool batch_statistics,
                   at::Tensor& grad_input, at::Tensor& grad_weight, at::Tensor& grad_bias);

}  // namespace bn_relu_max_pool2d
}  // namespace segnet_ext
