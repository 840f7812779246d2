// Compiled once for each SIMD level by foreach_level.h.
#include "common/pool.inl"

namespace codes_to_indices_impl {

inline void run(const PoolShape& s, const uint8_t* codes, int64_t* indices, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t oh = row % s.pooled_height;
    const auto rows = static_cast<int>(window_extent(oh, s.height));
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const int64_t window = row * s.pooled_width + ow;
      const auto cols = static_cast<int>(window_extent(ow, s.width));
      const int64_t first = code_to_index(0, oh, ow, s.width);
      const uint8_t* from = codes + window * codes_bytes(s.channels);
      for_lanes<int64_t>(s.channels, [&](int64_t c, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        const auto code = load_codes<double, kLanes>(from, c, rows, cols) >> code_shifts<double, kLanes>();
        store_raw(indices + window * s.channels + c, code_to_offset(code, s.width) + first);
      });
    }
  }
}

}  // namespace codes_to_indices_impl
