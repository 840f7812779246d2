// CPU kernels of bn_relu_max_pool2d over channels_last maps: plain pointers, no torch.
//
// acc_t below is double for double maps and float for all others; arrays of [C] hold acc_t.
#pragma once

#include <cstdint>

#include "common/pool_shape.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::bn_relu_max_pool2d {

// Reductions are cut into parts by the sizes alone and merged in order, so that no result depends on the thread count.
constexpr int64_t kMaxParts = 64;

struct StatsParams {
  int64_t pixels, channels;
  const void* input;        // [pixels, C]
  int64_t parts;            // at most kMaxParts
  double* partial_sum;      // [parts, C] zero on entry
  double* partial_squares;  // [parts, C] zero on entry; sums of squared deviations from the part's mean
};
// Part `part` of the statistics covers the pixels part_begin(part) to part_begin(part + 1).
void stats(DType dtype, const StatsParams& params, int64_t begin_part, int64_t end_part);
// Merges the parts: mean and biased variance, [C] of acc_t.
void merge_stats(DType dtype, const StatsParams& params, void* mean, void* var);

struct ForwardParams {
  PoolShape shape;
  const void* input;  // [N, H, W, C]
  const void* scale;  // [C]
  const void* shift;  // [C]
  void* output;       // [N, OH, OW, C]
  uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
};
// Computes the pooled rows [begin, end) of the N * OH there are.
void forward(DType dtype, const ForwardParams& params, int64_t begin, int64_t end);

struct BackwardParams {
  PoolShape shape;
  const void* grad_output;  // [N, OH, OW, C]
  const void* input;        // [N, H, W, C]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  const void* mean;         // [C]
  const void* scale;        // [C] weight * invstd
  const void* shift;        // [C] bias - mean * scale

  // backward_reduce
  int64_t parts;            // at most kMaxParts
  double* partial_sum;      // [parts, C] zero on entry; sum of the gradient that reaches the normalised map
  double* partial_product;  // [parts, C] zero on entry; sum of that gradient times (input - mean)

  // backward_input
  bool batch_statistics;   // whether mean and variance came from the batch, and so carry gradient
  const void* grad_mean;   // [C] mean of the gradient that reaches the normalised map
  const void* projection;  // [C] invstd^2 * mean of that gradient times (input - mean)
  void* grad_input;        // [N, H, W, C]
};
// Sums over winners only. Part `part` covers an equal share of the pooled rows.
void backward_reduce(DType dtype, const BackwardParams& params, int64_t begin_part, int64_t end_part);
// Writes the input gradient that belongs to the pooled rows [begin, end), each element once.
void backward_input(DType dtype, const BackwardParams& params, int64_t begin, int64_t end);

}  // namespace segnet_ext::bn_relu_max_pool2d
