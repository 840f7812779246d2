// What starts the CUDA kernels of bn_relu_max_pool2d; bn_relu_max_pool2d_kernel.cuh defines it.
#pragma once

#include "common/pool_shape.h"
#include "cuda/launcher.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::bn_relu_max_pool2d {

// Mean and variance of each channel, in two stages.
struct TwoStageStatsParams {
  int64_t pixels, channels;
  const void* input;      // [pixels, C]
  int64_t parts;          // stats_parts(...): room for so many, which may be more than there will be
  void* partial_sum;      // [parts, C] of acc_t; of x - origin
  void* partial_rest;     // [parts, C] of acc_t; what rounding took from partial_sum
  void* partial_squares;  // [parts, C] of acc_t; of deviations from the part's mean
  void* mean;             // [C] of acc_t
  void* var;              // [C] of acc_t; biased
};

// The most parts that the sums may be in, for TwoStageStatsParams.
int64_t stats_parts(DType dtype, int64_t pixels, int64_t channels, int64_t threads_to_fill = cuda::kThreadsToFill);

void launch_stats(const cuda::Launcher& launch, DType dtype, const TwoStageStatsParams& p,
                  int64_t threads_to_fill = cuda::kThreadsToFill);

// A BatchNorm, its vectors [C] of acc_t.
struct NormParams {
  const void* mean;
  const void* var;
  const void* weight;  // null stands for ones
  const void* bias;    // null stands for zeros
  double eps;
};

struct NormedForwardParams {
  PoolShape shape;
  const void* input;  // [N, H, W, C]
  NormParams norm;
  void* output;    // [N, OH, OW, C]
  uint8_t* codes;  // [N, OH, OW, ceil(C / 4)]
};

void launch_forward(const cuda::Launcher& launch, DType dtype, const NormedForwardParams& p,
                    int64_t threads_to_fill = cuda::kThreadsToFill);

struct NormedBackwardParams {
  PoolShape shape;
  const void* grad_output;  // [N, OH, OW, C]
  const void* input;        // [N, H, W, C]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  // float and double only: if it is given, the sums are taken from it, a quarter of the input, where channels allow.
  const void* output;  // [N, OH, OW, C]
  NormParams norm;
  bool batch_statistics;  // whether mean and variance came from the batch, and so carry gradient

  int64_t parts;            // backward_parts(...): room for so many
  double* partial_sum;      // [parts, C] sum of the gradient that reaches the normalised map
  double* partial_product;  // [parts, C] sum of that gradient times (input - mean)
  void* grad_offset;        // [C] of acc_t: BatchNormInputGrad's
  void* grad_slope;         // [C] of acc_t: BatchNormInputGrad's

  void* grad_input;   // [N, H, W, C]
  void* grad_weight;  // [C] of acc_t
  void* grad_bias;    // [C] of acc_t
};

// The most parts that the sums over winners may be in, for NormedBackwardParams.
int64_t backward_parts(DType dtype, const PoolShape& shape, int64_t threads_to_fill = cuda::kThreadsToFill);

void launch_backward(const cuda::Launcher& launch, DType dtype, const NormedBackwardParams& params,
                     int64_t threads_to_fill = cuda::kThreadsToFill);

// Moves running statistics towards a batch's, the variance without bias.
struct RunningStatsParams {
  int64_t channels;
  double momentum, unbiased;  // unbiased: values / (values - 1)
  const void* mean;           // all [C] of acc_t
  const void* var;
  const void* running_mean;
  const void* running_var;
  void* moved_mean;  // may be running_mean, and this running_var
  void* moved_var;
};

void launch_running_stats(const cuda::Launcher& launch, DType dtype, const RunningStatsParams& p);

}  // namespace segnet_ext::bn_relu_max_pool2d
