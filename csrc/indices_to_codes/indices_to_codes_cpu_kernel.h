// CPU kernel of indices_to_codes: plain pointers, no torch.
#pragma once

#include <cstdint>

#include "common/pool_shape.h"

namespace segnet_ext::indices_to_codes_impl {

// Writes codes [N, OH, OW, ceil(C / 4)] for the pooled rows [begin, end) of indices [N, OH, OW, C]. False as soon as an
// index lies outside its own window.
bool run(const PoolShape& shape, const int64_t* indices, uint8_t* codes, int64_t begin, int64_t end);

}  // namespace segnet_ext::indices_to_codes_impl
