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

// A pooling window, its elements by their place: 2 * row + column.
struct Window {
  int64_t offset;  // of the first element in the input
  int64_t index;   // counts pooled pixels
  int rows, cols;
  // To the next row and column, 0 where there is none: a place that is not there is an earlier one again. Kernels which
  // write all four places, the first one last, thus need no other code for the windows that the border cuts.
  int64_t row_step, col_step;

  SEGNET_INLINE int64_t element(int place) const { return offset + place / 2 * row_step + place % 2 * col_step; }
};

// Calls window(Window) for every window of the pooled rows [begin, end), and outside(input_offset) for every pixel that
// floor mode leaves out of all windows and that lies beside or, for the last row, below them.
template <class Body, class Outside>
SEGNET_INLINE void for_each_window(const PoolShape& shape, int64_t begin, int64_t end, const Body& window,
                                   const Outside& outside) {
  const int64_t row_stride = shape.width * shape.channels;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t n = row / shape.pooled_height;
    const int64_t oh = row % shape.pooled_height;
    const int rows = static_cast<int>(window_extent(oh, shape.height));
    const int64_t offset = (n * shape.height + 2 * oh) * row_stride;
    for (int64_t ow = 0; ow < shape.pooled_width; ++ow) {
      const int cols = static_cast<int>(window_extent(ow, shape.width));
      window(Window{offset + 2 * ow * shape.channels, row * shape.pooled_width + ow, rows, cols,
                    rows == 2 ? row_stride : 0, cols == 2 ? shape.channels : 0});
    }
    if (2 * shape.pooled_width < shape.width) {
      for (int r = 0; r < rows; ++r) {
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
template <int kLanes, Cache kCache = Cache::kFirst, class scalar_t>
SEGNET_INLINE void prefetch_windows(const scalar_t* window, int64_t row_step, int64_t c) {
  constexpr int64_t kAhead = 2048 / sizeof(scalar_t);
  for (int row = 0; row < 2; ++row) {
    prefetch<2 * kLanes, kCache>(window + row * row_step + 2 * c + kAhead);
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
  const auto pool = [&](const Window& window, auto rows, auto cols) {
    for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      prefetch_windows<kLanes>(input + window.offset, window.row_step, c);
      auto best = transform(load<kLanes>(input + window.offset + c), c, lanes);
      Vec<mask_type<acc_t>, kLanes> code{};
      for (int place = 1; place < 4; ++place) {
        if (place / 2 < decltype(rows)::value && place % 2 < decltype(cols)::value) {
          const auto value = transform(load<kLanes>(input + window.element(place) + c), c, lanes);
          const auto wins = pool_wins(value, best);
          best = wins ? value : best;
          code = wins ? code_lanes<acc_t, kLanes>(place) : code;
        }
      }
      store<kLanes>(output + window.index * channels + c, best);
      store_codes<acc_t, kLanes>(packed + window.index * codes_bytes(channels), c, code);
    });
  };
  // Not as one code for all: of several NaNs the last wins, which an element that is there twice would move.
  const auto window = [&](const Window& w) {
    with_extents(w.rows, w.cols, [&](auto rows, auto cols) { pool(w, rows, cols); });
  };
  for_each_window(shape, begin, end, window, [](int64_t) {});
}
