#include "indices_to_codes/indices_to_codes_cpu_kernel.h"

#include <algorithm>

#include "segnet_ext/codes.h"

namespace segnet_ext::indices_to_codes_impl {

bool run(const PoolShape& s, const int64_t* indices, uint8_t* codes, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t oh = row % s.pooled_height;
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const int64_t window = row * s.pooled_width + ow;
      const int64_t rows = window_extent(oh, s.height), cols = window_extent(ow, s.width);
      const int64_t* from = indices + window * s.channels;
      uint8_t* to = codes + window * codes_bytes(s.channels);
      std::fill_n(to, codes_bytes(s.channels), uint8_t(0));
      for (int64_t c = 0; c < s.channels; ++c) {
        const int code = index_to_code(from[c], oh, ow, rows, cols, s.width);
        if (code < 0) {
          return false;
        }
        to[c / kCodesPerByte] |= static_cast<uint8_t>(code << (2 * (c % kCodesPerByte)));
      }
    }
  }
  return true;
}

}  // namespace segnet_ext::indices_to_codes_impl
