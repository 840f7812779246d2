// CPU kernel of codes_to_indices: plain pointers, no torch.
#pragma once

#include <cstdint>

#include "common/pool_shape.h"

namespace segnet_ext::codes_to_indices_impl {

// Writes indices [N, OH, OW, C] for the pooled rows [begin, end) of codes [N, OH, OW, ceil(C / 4)].
void run(const PoolShape& shape, const uint8_t* codes, int64_t* indices, int64_t begin, int64_t end);

}  // namespace segnet_ext::codes_to_indices_impl
