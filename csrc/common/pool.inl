// The walk over pooling windows that the pool operations share. Included at each SIMD level; needs common/pool_shape.h
// and segnet_ext/codes.h.

template <int kValue>
using Int = std::integral_constant<int, kValue>;

// Calls body(Int<rows>, Int<cols>) with a window's extents as compile-time constants.
template <class Body>
SEGNET_INLINE void with_extents(int64_t rows, int64_t cols, const Body& body) {
  if (rows == 2) {
    cols == 2 ? body(Int<2>{}, Int<2>{}) : body(Int<2>{}, Int<1>{});
  } else {
    cols == 2 ? body(Int<1>{}, Int<2>{}) : body(Int<1>{}, Int<1>{});
  }
}

// Calls window(input_offset, window_index, Int<rows>, Int<cols>) for every window of the pooled rows [begin, end),
// where input_offset is that of the window's first element and window_index counts pooled pixels; and
// outside(input_offset) for every pixel that floor mode leaves out of all windows and that lies beside or, for the last
// row, below them.
template <class Window, class Outside>
SEGNET_INLINE void for_each_window(const PoolShape& shape, int64_t begin, int64_t end, const Window& window,
                                   const Outside& outside) {
  const int64_t row_stride = shape.width * shape.channels;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / shape.pooled_height;
    const int64_t oh = row % shape.pooled_height;
    const int64_t rows = window_extent(oh, shape.height);
    const int64_t offset = (n * shape.height + 2 * oh) * row_stride;
    for (int64_t ow = 0; ow < shape.pooled_width; ++ow) {
      with_extents(rows, window_extent(ow, shape.width), [&](auto kRows, auto kCols) {
        window(offset + 2 * ow * shape.channels, row * shape.pooled_width + ow, kRows, kCols);
      });
    }
    if (2 * shape.pooled_width < shape.width) {
      for (int64_t r = 0; r < rows; ++r) {
        outside(offset + r * row_stride + (shape.width - 1) * shape.channels);
      }
    }
    if (oh + 1 == shape.pooled_height && 2 * shape.pooled_height < shape.height) {
      for (int64_t w = 0; w < shape.width; ++w) {
        outside(offset + 2 * row_stride + w * shape.channels);
      }
    }
  }
}

// To be called for every vector of channels of a window of which `window` is the first element: fetches, line after
// line, the memory of windows some way on.
template <int kRows, int kLanes, class scalar_t>
SEGNET_INLINE void prefetch_windows(const scalar_t* window, int64_t row_stride, int64_t c) {
  constexpr int64_t kAhead = 2048 / sizeof(scalar_t);
  for (int row = 0; row < kRows; ++row) {
    prefetch<2 * kLanes>(window + row * row_stride + 2 * c + kAhead);
  }
}

// Codes of kLanes channels as they lie in the packed bytes: lane i has its code in bits 2 * i and 2 * i + 1, so that no
// lane is ever shifted. `code` in every lane:
template <class acc_t, int... kLane>
SEGNET_INLINE Vec<mask_type<acc_t>, sizeof...(kLane)> code_lanes(uint32_t code, std::integer_sequence<int, kLane...>) {
  return Vec<mask_type<acc_t>, sizeof...(kLane)>{static_cast<mask_type<acc_t>>(code << (2 * kLane))...};
}
template <class acc_t, int kLanes>
SEGNET_INLINE Vec<mask_type<acc_t>, kLanes> code_lanes(uint32_t code) {
  return code_lanes<acc_t>(code, std::make_integer_sequence<int, kLanes>{});
}

// The codes of channels c to c + kLanes - 1 of a window of that many rows and columns; `packed` are the window's bytes.
template <class acc_t, int kLanes>
SEGNET_INLINE Vec<mask_type<acc_t>, kLanes> load_codes(const uint8_t* packed, int64_t c, int rows, int cols) {
  uint32_t word = 0;
  if constexpr (kLanes >= kCodesPerByte) {
    __builtin_memcpy(&word, packed + c / kCodesPerByte, kLanes / kCodesPerByte);
  } else {
    word = packed[c / kCodesPerByte] >> (2 * (c % kCodesPerByte));
  }
  word &= static_cast<uint32_t>(code_mask(rows, cols)) * 0x55555555u;
  return broadcast<mask_type<acc_t>, kLanes>(static_cast<mask_type<acc_t>>(word)) & code_lanes<acc_t, kLanes>(3);
}

// Called with c ascending from 0; leaves the bits of channels that are not there zero.
template <class acc_t, int kLanes>
SEGNET_INLINE void store_codes(uint8_t* packed, int64_t c, Vec<mask_type<acc_t>, kLanes> codes) {
  const auto word = static_cast<uint32_t>(or_lanes<mask_type<acc_t>, kLanes>(codes));
  if constexpr (kLanes >= kCodesPerByte) {
    __builtin_memcpy(packed + c / kCodesPerByte, &word, kLanes / kCodesPerByte);
  } else {
    const auto bits = static_cast<uint8_t>(word << (2 * (c % kCodesPerByte)));
    uint8_t& byte = packed[c / kCodesPerByte];
    byte = c % kCodesPerByte == 0 ? bits : byte | bits;
  }
}

// Pools rows [begin, end): output[n, oh, ow, c] = max of transform(input, c) over the window, and its packed code.
template <class scalar_t, class Transform>
SEGNET_INLINE void pool_rows(const PoolShape& shape, const scalar_t* input, scalar_t* output, uint8_t* packed,
                             int64_t begin, int64_t end, const Transform& transform) {
  using acc_t = acc_type<scalar_t>;
  const int64_t channels = shape.channels;
  const int64_t row_stride = shape.width * channels;
  const auto window = [&](int64_t offset, int64_t index, auto rows, auto cols) {
    for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      const scalar_t* corner = input + offset + c;
      prefetch_windows<decltype(rows)::value, kLanes>(input + offset, row_stride, c);
      auto best = transform(load<kLanes>(corner), c, lanes);
      Vec<mask_type<acc_t>, kLanes> code{};
      for (int place = 1; place < 4; ++place) {
        const int row = place >> 1, col = place & 1;
        if (row < decltype(rows)::value && col < decltype(cols)::value) {
          const auto value = transform(load<kLanes>(corner + row * row_stride + col * channels), c, lanes);
          const auto wins = pool_wins(value, best);
          best = wins ? value : best;
          code = wins ? code_lanes<acc_t, kLanes>(place) : code;
        }
      }
      store<kLanes>(output + index * channels + c, best);
      store_codes<acc_t, kLanes>(packed + index * codes_bytes(channels), c, code);
    });
  };
  for_each_window(shape, begin, end, window, [](int64_t) {});
}
