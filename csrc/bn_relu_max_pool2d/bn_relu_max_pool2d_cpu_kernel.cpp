#include "bn_relu_max_pool2d/bn_relu_max_pool2d_cpu_kernel.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "common/line_array.h"
#include "common/streaming.h"
#include "segnet_ext/codes.h"
#include "segnet_ext/elementwise.h"
#include "simd/dispatch.h"

namespace segnet_ext::bn_relu_max_pool2d {
namespace {

// First of the items of part `part` when `items` are cut into `parts` nearly equal parts.
int64_t part_begin(int64_t items, int64_t parts, int64_t part) {
  return items * part / parts;
}

}  // namespace
}  // namespace segnet_ext::bn_relu_max_pool2d

#define SEGNET_SIMD_FILE "bn_relu_max_pool2d/bn_relu_max_pool2d_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::bn_relu_max_pool2d {

void make_affine(DType dtype, const AffineParams& params) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::MakeAffine, dtype, params);
}

void make_inverse(DType dtype, const InverseParams& params) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::MakeInverse, dtype, params);
}

void stats(DType dtype, const StatsParams& params, int64_t begin_part, int64_t end_part) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::Stats, dtype, params, begin_part, end_part);
}

void merge_stats(DType dtype, const StatsParams& params, void* mean, void* var) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::MergeStats, dtype, params, mean, var);
}

void forward(DType dtype, const ForwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::Forward, dtype, params, begin, end);
}

void backward_reduce(DType dtype, const BackwardParams& params, int64_t begin_part, int64_t end_part) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::BackwardReduce, dtype, params, begin_part, end_part);
}

void merge_sums(DType dtype, const MergeSumsParams& params) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::MergeSums, dtype, params);
}

void backward_input(DType dtype, const BackwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(bn_relu_max_pool2d::BackwardInput, dtype, params, begin, end);
}

}  // namespace segnet_ext::bn_relu_max_pool2d
