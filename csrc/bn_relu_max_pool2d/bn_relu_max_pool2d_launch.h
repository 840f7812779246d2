// What starts the CUDA kernels of bn_relu_max_pool2d; bn_relu_max_pool2d_kernel.cuh defines it.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_params.h"
#include "cuda/launcher.h"

namespace segnet_ext::bn_relu_max_pool2d {

// Mean and variance of each channel, in two stages.
struct TwoStageStatsParams {
  int64_t pixels, channels;
  const void* input;      // [pixels, C]
  int64_t parts;          // stats_parts(...)
  void* partial_sum;      // [parts, C] of acc_t; of x - origin
  void* partial_rest;     // [parts, C] of acc_t; what rounding took from partial_sum
  void* partial_squares;  // [parts, C] of acc_t; of deviations from the part's mean
  void* mean;             // [C] of acc_t
  void* var;              // [C] of acc_t; biased
};

// Parts of the sums, for TwoStageStatsParams.
int64_t stats_parts(DType dtype, int64_t pixels, int64_t channels, int64_t threads_to_fill = cuda::kThreadsToFill);

void launch_stats(const cuda::Launcher& launch, DType dtype, const TwoStageStatsParams& p,
                  int64_t threads_to_fill = cuda::kThreadsToFill);

struct AffineParams {
  int64_t channels;
  double eps;
  const void* mean;  // all [C] of acc_t
  const void* var;
  const void* weight;  // null stands for ones
  const void* bias;    // null stands for zeros
  void* invstd;
  void* scale;
  void* shift;
};

void launch_affine(const cuda::Launcher& launch, DType dtype, const AffineParams& p);

void launch_forward(const cuda::Launcher& launch, DType dtype, const ForwardParams& p,
                    int64_t threads_to_fill = cuda::kThreadsToFill);

struct MergeGradsParams {
  BackwardParams backward;
  const void* invstd;  // all [C] of acc_t
  void* grad_weight;
  void* grad_bias;
  void* grad_mean;
  void* projection;
};

// Parts of the sums over winners, for BackwardParams.
int64_t backward_parts(DType dtype, const PoolShape& shape, int64_t threads_to_fill = cuda::kThreadsToFill);

// Fills the gradients of weight and bias, then p.backward.grad_input. p.backward.grad_mean and projection are the
// arrays that p.grad_mean and p.projection write.
void launch_backward(const cuda::Launcher& launch, DType dtype, const MergeGradsParams& params,
                     int64_t threads_to_fill = cuda::kThreadsToFill);

}  // namespace segnet_ext::bn_relu_max_pool2d
