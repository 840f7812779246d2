#include "codes_to_indices/codes_to_indices_cpu_kernel.h"

#include <type_traits>

#include "common/line_array.h"
#include "segnet_ext/codes.h"
#include "segnet_ext/elementwise.h"
#include "simd/dispatch.h"

#define SEGNET_SIMD_FILE "codes_to_indices/codes_to_indices_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::codes_to_indices_impl {

void run(const PoolShape& shape, const uint8_t* codes, int64_t* indices, int64_t begin, int64_t end) {
  SEGNET_CALL_FUNCTION_AT_LEVEL(codes_to_indices_impl::run, shape, codes, indices, begin, end);
}

}  // namespace segnet_ext::codes_to_indices_impl
