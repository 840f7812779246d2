// The walk over pooling windows that the pool operations share. Included at each SIMD level; needs common/line_array.h,
// common/pool_shape.h and segnet_ext/codes.h.

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
template <int kLanes, class scalar_t>
SEGNET_INLINE void prefetch_windows(const scalar_t* window, int64_t row_step, int64_t c) {
  constexpr int64_t kAhead = 2048 / sizeof(scalar_t);
  for (int row = 0; row < 2; ++row) {
    prefetch<2 * kLanes>(window + row * row_step + 2 * c + kAhead);
  }
}
// The same for windows that are written: not past the caches, nor in whole lines, whose stores need no fetching.
template <int kLanes, class scalar_t>
SEGNET_INLINE void prefetch_written_windows(const scalar_t* window, int64_t row_step, int64_t c, bool past_caches) {
  if (!past_caches && kLanes * sizeof(scalar_t) < kLineBytes) {
    prefetch_windows<kLanes>(window, row_step, c);
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

// By how many bits each lane's code is shifted.
template <class acc_t, int... kLane>
SEGNET_INLINE Vec<mask_type<acc_t>, sizeof...(kLane)> code_shifts(std::integer_sequence<int, kLane...>) {
  return Vec<mask_type<acc_t>, sizeof...(kLane)>{(2 * kLane)...};
}
template <class acc_t, int kLanes>
SEGNET_INLINE Vec<mask_type<acc_t>, kLanes> code_shifts() {
  return code_shifts<acc_t>(std::make_integer_sequence<int, kLanes>{});
}

// The first `count` codes of channels c to c + kLanes - 1 of a window of that many rows and columns, or all where there
// are more; `packed` are the window's bytes.
template <class acc_t, int kLanes>
SEGNET_INLINE Vec<mask_type<acc_t>, kLanes> load_first_codes(const uint8_t* packed, int64_t c, int64_t count, int rows,
                                                             int cols) {
  uint32_t word = 0;
  if constexpr (kLanes >= kCodesPerByte) {
    const uint8_t* from = packed + c / kCodesPerByte;
    if (count >= kLanes) {
      __builtin_memcpy(&word, from, kLanes / kCodesPerByte);
    } else {
      for (int64_t i = 0; i < codes_bytes(count); ++i) {
        word |= static_cast<uint32_t>(from[i]) << (8 * i);
      }
    }
  } else {
    word = packed[c / kCodesPerByte] >> (2 * (c % kCodesPerByte));
  }
  word = clip_codes(word, rows, cols);
  return broadcast<mask_type<acc_t>, kLanes>(static_cast<mask_type<acc_t>>(word)) & code_lanes<acc_t, kLanes>(3);
}
template <class acc_t, int kLanes>
SEGNET_INLINE Vec<mask_type<acc_t>, kLanes> load_codes(const uint8_t* packed, int64_t c, int rows, int cols) {
  return load_first_codes<acc_t, kLanes>(packed, c, kLanes, rows, cols);
}

// The winners of kLanes channels of a window: their values, and the lanes whose codes have bit 0 and bit 1.
template <class acc_t, int kLanes, class Mask>
struct Winners {
  Vec<acc_t, kLanes> values;
  Mask low, high;

  // As store_codes stores them: two bits to a lane.
  SEGNET_INLINE uint32_t codes() const {
#if SEGNET_SIMD_HALVES
    if constexpr (kLanes == kLanesOf<acc_t>) {
      return interleaved_bits(low, high);
    } else
#endif
    {
      return static_cast<uint32_t>(or_lanes<mask_type<acc_t>, kLanes>((low & code_lanes<acc_t, kLanes>(1)) |
                                                                      (high & code_lanes<acc_t, kLanes>(2))));
    }
  }
};

// Of the values at places 0 to 3, where wins(value, best) says which lanes of a later place take over: the winners of
// both rows, and the winner of these. A place that is not there may be an earlier one again: among equals the first one
// wins, and where a NaN wins once more, its code is to be clipped.
template <class acc_t, int kLanes, class Wins>
SEGNET_INLINE auto winners_of(const Vec<acc_t, kLanes> (&value)[4], const Wins& wins) {
  const auto won = [&](const Vec<acc_t, kLanes>& later, const Vec<acc_t, kLanes>& best) {
    return wins(compared<acc_t, kLanes>(later), compared<acc_t, kLanes>(best));
  };
  const auto right_above = won(value[1], value[0]), right_below = won(value[3], value[2]);
  const auto above = select(right_above, value[1], value[0]), below = select(right_below, value[3], value[2]);
  const auto lower = won(below, above);
  return Winners<acc_t, kLanes, std::decay_t<decltype(lower)>>{select(lower, below, above),
                                                               select(lower, right_below, right_above), lower};
}

// Called with c ascending from 0; leaves the bits of channels that are not there zero. Of kLanes codes, the first
// `count` are, or all where there are more.
template <int kLanes>
SEGNET_INLINE void store_first_codes(uint8_t* packed, int64_t c, int64_t count, uint32_t codes) {
  if (count < kLanes) {
    codes &= (1u << (2 * count)) - 1;
  }
  if constexpr (kLanes >= kCodesPerByte) {
    uint8_t* to = packed + c / kCodesPerByte;
    if (count >= kLanes) {
      __builtin_memcpy(to, &codes, kLanes / kCodesPerByte);
    } else {
      for (int64_t i = 0; i < codes_bytes(count); ++i) {
        to[i] = static_cast<uint8_t>(codes >> (8 * i));
      }
    }
  } else {
    const auto bits = static_cast<uint8_t>(codes << (2 * (c % kCodesPerByte)));
    uint8_t& byte = packed[c / kCodesPerByte];
    byte = c % kCodesPerByte == 0 ? bits : byte | bits;
  }
}
template <int kLanes>
SEGNET_INLINE void store_codes(uint8_t* packed, int64_t c, uint32_t codes) {
  store_first_codes<kLanes>(packed, c, kLanes, codes);
}

// Pools rows [begin, end): output[n, oh, ow, c] = max of rectify(transform(input, c)) over the window, and its packed
// code. rectify is ReLU, which is only needed for a window's first value, as what is below zero takes over from no
// value that is not; or it leaves values as they are.
template <class scalar_t, class Transform, class Rectify>
SEGNET_INLINE void pool_rows(const PoolShape& shape, const scalar_t* input, scalar_t* output, uint8_t* packed,
                             int64_t begin, int64_t end, const Transform& transform, const Rectify& rectify) {
  using acc_t = acc_type<scalar_t>;
  const int64_t channels = shape.channels;
  const bool past_caches = streams(output, shape.pooled_rows() * shape.pooled_width, channels * sizeof(scalar_t),
                                   kLanesOf<acc_t> * sizeof(scalar_t));

  // Calls body(values at places 0 to 3, lanes) for every vector of channels, and stores the winners that it gives.
  const auto pool = [&](const Window& window, const auto& body) {
    for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      prefetch_windows<kLanes>(input + window.offset, window.row_step, c);
      const auto value_at = [&](int place) {
        return transform(load<kLanes>(input + window.element(place) + c), c, lanes);
      };
      const Vec<acc_t, kLanes> values[4] = {rectify(value_at(0)), value_at(1), value_at(2), value_at(3)};
      const auto winners = body(values, lanes);
      store<kLanes>(output + window.index * channels + c, winners.values, past_caches);
      store_codes<kLanes>(packed + window.index * codes_bytes(channels), c,
                          clip_codes(winners.codes(), window.rows, window.cols));
    });
  };
  const auto window = [&](const Window& w) {
    // Most windows hold numbers alone. Whether one does can be told from a sum of products of its values, which costs
    // less than to compare each with itself. Infinities, and products that overflow, may look like NaN here.
    Vec<acc_t, kLanesOf<acc_t>> above{}, below{};
    pool(w, [&](const auto& values, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      if constexpr (kLanes == 1) {
        above[0] += values[0][0] * values[1][0];
        below[0] += values[2][0] * values[3][0];
      } else {
        above += values[0] * values[1];
        below += values[2] * values[3];
      }
      return winners_of<acc_t, kLanes>(values, [](auto value, auto best) { return pool_wins_of_numbers(value, best); });
    });
    const auto sum = above + below;
    if (or_lanes<mask_type<acc_t>, kLanesOf<acc_t>>(sum != sum) != 0) {
      pool(w, [](const auto& values, auto lanes) {
        return winners_of<acc_t, decltype(lanes)::value>(values,
                                                         [](auto value, auto best) { return pool_wins(value, best); });
      });
    }
  };
  for_each_window(shape, begin, end, window, [](int64_t) {});
  stream_fence();
}
