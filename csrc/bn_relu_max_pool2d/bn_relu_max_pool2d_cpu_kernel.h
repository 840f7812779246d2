// CPU kernels of bn_relu_max_pool2d over channels_last maps: plain pointers, no torch.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_params.h"

namespace segnet_ext::bn_relu_max_pool2d {

// Parts that a reduction is cut into at most.
constexpr int64_t kMaxParts = 64;

// A BatchNorm as y = x * scale + shift, and the way back that BatchNormInverse is; vectors [C] of float or double.
struct AffineParams {
  int64_t channels;
  const void *mean, *var;
  const void *weight, *bias;  // null stands for ones and for zeros
  double eps;
  void *invstd, *scale, *shift;
};
void make_affine(DType dtype, const AffineParams& params);
struct InverseParams {
  int64_t channels;
  const void *mean, *var, *scale, *shift;
  void *origin, *slope;  // NaN for a channel that BatchNormInverse is no good for
  int64_t* good;         // how many it is good for
};
void make_inverse(DType dtype, const InverseParams& params);

struct StatsParams {
  int64_t pixels, channels;
  const void* input;        // [pixels, C]
  int64_t parts;            // at most kMaxParts
  double* partial_sum;      // [parts, C] sums of distances from the channel's first value
  double* partial_squares;  // [parts, C] sums of squared distances from it
};
// Sums up the parts [begin_part, end_part), each an equal share of the pixels.
void stats(DType dtype, const StatsParams& params, int64_t begin_part, int64_t end_part);
// Merges the parts: mean and biased variance, [C] of acc_t.
void merge_stats(DType dtype, const StatsParams& params, void* mean, void* var);

// Computes the pooled rows [begin, end) of the N * OH there are.
void forward(DType dtype, const ForwardParams& params, int64_t begin, int64_t end);

// Sums over winners only, into at most kMaxParts partial sums. Part `part` covers an equal share of the pooled rows.
// With fixed statistics this writes grad_input too, which then needs none of the sums and no output.
void backward_reduce(DType dtype, const BackwardParams& params, int64_t begin_part, int64_t end_part);
struct MergeSumsParams {
  int64_t channels, parts;
  const double *partial_sum, *partial_product;  // [parts, C]
  double values;                                // to a channel
  const void *invstd, *scale;                   // [C], as are the results
  void *grad_weight, *grad_bias, *grad_offset, *grad_slope;
};
// Merges such parts, as batch_norm_grads says; vectors of float or double.
void merge_sums(DType dtype, const MergeSumsParams& params);
// With batch statistics: writes the input gradient that belongs to the pooled rows [begin, end), each element once.
void backward_input(DType dtype, const BackwardParams& params, int64_t begin, int64_t end);

}  // namespace segnet_ext::bn_relu_max_pool2d
