#include "indices_to_codes/indices_to_codes_cpu_kernel.h"

#include <type_traits>

#include "common/line_array.h"
#include "segnet_ext/codes.h"
#include "segnet_ext/elementwise.h"
#include "simd/dispatch.h"

#define SEGNET_SIMD_FILE "indices_to_codes/indices_to_codes_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::indices_to_codes_impl {

bool run(const PoolShape& shape, const int64_t* indices, uint8_t* codes, int64_t begin, int64_t end) {
  SEGNET_CALL_FUNCTION_AT_LEVEL(indices_to_codes_impl::run, shape, indices, codes, begin, end);
}

}  // namespace segnet_ext::indices_to_codes_impl
