#include "codes_to_indices/codes_to_indices_cpu_kernel.h"

#include "segnet_ext/codes.h"

namespace segnet_ext::codes_to_indices_impl {

void run(const PoolShape& s, const uint8_t* codes, int64_t* indices, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t oh = row % s.pooled_height;
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const int64_t window = row * s.pooled_width + ow;
      const int mask = code_mask(window_extent(oh, s.height), window_extent(ow, s.width));
      const uint8_t* from = codes + window * codes_bytes(s.channels);
      int64_t* to = indices + window * s.channels;
      for (int64_t c = 0; c < s.channels; ++c) {
        to[c] = code_to_index(get_code(from, c) & mask, oh, ow, s.width);
      }
    }
  }
}

}  // namespace segnet_ext::codes_to_indices_impl
