#include "max_pool2d_with_codes/max_pool2d_with_codes_cpu_kernel.h"

#include <type_traits>

#include "common/streaming.h"
#include "segnet_ext/codes.h"
#include "simd/dispatch.h"

#define SEGNET_SIMD_FILE "max_pool2d_with_codes/max_pool2d_with_codes_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::max_pool2d_with_codes {

void forward(DType dtype, const ForwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(max_pool2d_with_codes::Forward, dtype, params, begin, end);
}

void backward(DType dtype, const BackwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(max_pool2d_with_codes::Backward, dtype, params, begin, end);
}

}  // namespace segnet_ext::max_pool2d_with_codes
