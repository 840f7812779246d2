// The walk over pooling windows that the pool operations share. Included at each SIMD level; needs common/pool_shape.h
// and segnet_ext/codes.h.

// Channels whose unpacked codes are held at a time.
constexpr int64_t kCodeBlock = 256;

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

SEGNET_INLINE void pack_code_bytes(const uint8_t* codes, int64_t bytes, uint8_t* packed) {
  for (int64_t b = 0; b < bytes; ++b) {
    uint32_t word;
    __builtin_memcpy(&word, codes + kCodesPerByte * b, sizeof(word));
    packed[b] = pack_codes(word);
  }
}
SEGNET_INLINE void unpack_code_bytes(const uint8_t* packed, int64_t bytes, uint8_t* codes) {
  for (int64_t b = 0; b < bytes; ++b) {
    const uint32_t word = unpack_codes(packed[b]);
    __builtin_memcpy(codes + kCodesPerByte * b, &word, sizeof(word));
  }
}

// Unpacks a window's codes block by block of channels and calls body(channel, code_in_block_pointer, lanes) for vectors
// of acc_t lanes.
template <class acc_t, class Body>
SEGNET_INLINE void for_each_code(int64_t channels, const uint8_t* packed, const Body& body) {
  alignas(64) uint8_t codes[kCodeBlock];
  for (int64_t start = 0; start < channels; start += kCodeBlock) {
    const int64_t count = channels - start < kCodeBlock ? channels - start : kCodeBlock;
    unpack_code_bytes(packed + start / kCodesPerByte, codes_bytes(count), codes);
    for_lanes<acc_t>(count, [&](int64_t i, auto lanes) { body(start + i, codes + i, lanes); });
  }
}

// Pools rows [begin, end): output[n, oh, ow, c] = max of transform(input, c) over the window, and its packed code.
template <class scalar_t, class Transform>
SEGNET_INLINE void pool_rows(const PoolShape& shape, const scalar_t* input, scalar_t* output, uint8_t* packed,
                             int64_t begin, int64_t end, const Transform& transform) {
  using acc_t = acc_type<scalar_t>;
  const int64_t channels = shape.channels;
  const int64_t row_stride = shape.width * channels;
  alignas(64) uint8_t codes[kCodeBlock];
  const auto window = [&](int64_t offset, int64_t index, auto rows, auto cols) {
    for (int64_t start = 0; start < channels; start += kCodeBlock) {
      const int64_t count = channels - start < kCodeBlock ? channels - start : kCodeBlock;
      for_lanes<acc_t>(count, [&](int64_t i, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        const scalar_t* corner = input + offset + start + i;
        auto best = transform(load<kLanes>(corner), start + i, lanes);
        Vec<mask_type<acc_t>, kLanes> code{};
        for (int place = 1; place < 4; ++place) {
          const int row = place >> 1, col = place & 1;
          if (row < decltype(rows)::value && col < decltype(cols)::value) {
            const auto value = transform(load<kLanes>(corner + row * row_stride + col * channels), start + i, lanes);
            const auto wins = pool_wins(value, best);
            best = wins ? value : best;
            code = wins ? broadcast<mask_type<acc_t>, kLanes>(place) : code;
          }
        }
        store<kLanes>(output + index * channels + start + i, best);
        store_codes<acc_t, kLanes>(codes + i, code);
      });
      for (int64_t i = count; i % kCodesPerByte != 0; ++i) {
        codes[i] = 0;
      }
      pack_code_bytes(codes, codes_bytes(count), packed + index * codes_bytes(channels) + start / kCodesPerByte);
    }
  };
  for_each_window(shape, begin, end, window, [](int64_t) {});
}
