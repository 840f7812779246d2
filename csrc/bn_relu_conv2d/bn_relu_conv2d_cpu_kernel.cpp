#include "bn_relu_conv2d/bn_relu_conv2d_cpu_kernel.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#include "simd/dispatch.h"

#define SEGNET_SIMD_FILE "bn_relu_conv2d/bn_relu_conv2d_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::bn_relu_conv2d {

void backward_reduce(DType dtype, const BackwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(bn_relu_conv2d::BackwardReduce, dtype, params, begin, end);
}

void backward_input(DType dtype, const BackwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(bn_relu_conv2d::BackwardInput, dtype, params, begin, end);
}

}  // namespace segnet_ext::bn_relu_conv2d
