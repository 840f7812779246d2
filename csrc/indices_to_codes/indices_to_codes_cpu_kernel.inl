// Compiled once for each SIMD level by foreach_level.h.
#include "common/pool.inl"

namespace indices_to_codes_impl {

inline bool run(const PoolShape& s, const int64_t* indices, uint8_t* codes, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t oh = row % s.pooled_height;
    const int64_t rows = window_extent(oh, s.height);
    for (int64_t ow = 0; ow < s.pooled_width; ++ow) {
      const int64_t window = row * s.pooled_width + ow;
      const int64_t cols = window_extent(ow, s.width);
      const auto first = static_cast<uint64_t>(code_to_index(0, oh, ow, s.width));
      const int64_t* from = indices + window * s.channels;
      uint8_t* to = codes + window * codes_bytes(s.channels);
      Vec<uint64_t, kLanesOf<uint64_t>> all{};
      for_lanes<uint64_t>(s.channels, [&](int64_t c, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        using Codes = Vec<uint64_t, kLanes>;
        const Codes code = offset_to_code(load_raw<Codes>(from + c) - first, rows, cols, s.width);
        if constexpr (kLanes == 1) {
          all[0] |= code[0];
        } else {
          all |= code;
        }
        const auto in_place = bit_cast<Vec<int64_t, kLanes>>(code) << code_shifts<double, kLanes>();
        store_codes<kLanes>(to, c, static_cast<uint32_t>(or_lanes<int64_t, kLanes>(in_place)));
      });
      if (or_lanes<uint64_t, kLanesOf<uint64_t>>(all) > 3) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace indices_to_codes_impl
