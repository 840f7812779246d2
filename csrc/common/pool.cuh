// The walk over pooling windows that the pool kernels share.
#pragma once

#include <cstdint>

#include "common/pool_shape.h"
#include "common/tiling.cuh"
#include "segnet_ext/elementwise.h"

namespace segnet_ext::cuda {

// How a walk over all windows is cut into threads that have kChannels channels each.
template <int kChannels>
Tiling window_tiling(const PoolShape& shape, int64_t threads_to_fill, const ItemsPerThread& limits = {1, 8}) {
  check_extent("rows", shape.height);
  check_extent("columns", shape.width);
  return make_tiling(shape.pooled_rows() * shape.pooled_width, shape.channels, kChannels, limits, threads_to_fill);
}

// A window by its place in the pooled maps: item = (n * OH + oh) * OW + ow. Rows and columns fit 32 bits, which divide
// faster and take fewer registers.
struct Window {
  int64_t n;
  int oh, ow;

  SEGNET_DEVICE Window(const PoolShape& s, int64_t item) {
    const int64_t row = item / s.pooled_width;
    ow = static_cast<int>(item % s.pooled_width);
    oh = static_cast<int>(row % s.pooled_height);
    n = row / s.pooled_height;
  }

  // Most steps stay in their row of windows.
  SEGNET_DEVICE void advance(const PoolShape& s, int items) {
    const int rows = static_cast<int>(s.pooled_height), cols = static_cast<int>(s.pooled_width);
    ow += items;
    if (ow >= cols) {
      oh += ow / cols;
      ow %= cols;
      if (oh >= rows) {
        n += oh / rows;
        oh %= rows;
      }
    }
  }

  // Rows and columns of the window.
  SEGNET_DEVICE int rows(const PoolShape& s) const { return static_cast<int>(window_extent(oh, s.height)); }
  SEGNET_DEVICE int cols(const PoolShape& s) const { return static_cast<int>(window_extent(ow, s.width)); }
  // Rows and columns that a thread has to write if it is to write the window: the last window's include the row or
  // column that floor mode leaves out.
  SEGNET_DEVICE int own_rows(const PoolShape& s) const {
    return oh + 1 == s.pooled_height ? static_cast<int>(s.height) - 2 * oh : 2;
  }
  SEGNET_DEVICE int own_cols(const PoolShape& s) const {
    return ow + 1 == s.pooled_width ? static_cast<int>(s.width) - 2 * ow : 2;
  }
  // Offset of its first pixel in the unpooled maps.
  SEGNET_DEVICE int64_t corner(const PoolShape& s) const {
    return ((n * s.height + 2 * oh) * s.width + 2 * ow) * s.channels;
  }
};

// Calls body(place, row, col) for the four places of a window that a map's edge leaves.
template <class Body>
SEGNET_DEVICE void for_each_place(int rows, int cols, const Body& body) {
#pragma unroll
  for (int place = 0; place < 4; ++place) {
    if ((place >> 1) < rows && (place & 1) < cols) {
      body(place, place >> 1, place & 1);
    }
  }
}

// Calls body(row, col) for the pixels beside and below a window that no window has.
template <class Body>
SEGNET_DEVICE void for_each_left_out(const PoolShape& s, const Window& window, const Body& body) {
  const int own_rows = window.own_rows(s), own_cols = window.own_cols(s);
  if (own_rows > 2) {
    for (int col = 0; col < own_cols; ++col) {
      body(2, col);
    }
  }
  if (own_cols > 2) {
    for (int row = 0; row < own_rows && row < 2; ++row) {
      body(row, 2);
    }
  }
}

// Pools a thread's windows: output = max of transform(i, input) over the window for its channels i, and the codes.
template <int kChannels, bool kWhole, class Op, class scalar_t, class Transform>
SEGNET_DEVICE void pool_windows(const Op& p, const Tiling& tiling, const TilePlace<kChannels>& place,
                                const ChannelGroup<kChannels, kWhole>& group, const scalar_t* input, scalar_t* output,
                                const Transform& transform) {
  const PoolShape& s = p.shape;
  const int64_t row_stride = s.width * s.channels;
  Window window(s, place.item);
  for (int64_t item = place.item; item < place.end; item += tiling.rows, window.advance(s, tiling.rows)) {
    const scalar_t* corner = input + window.corner(s) + place.channel;
    const int rows = window.rows(s), cols = window.cols(s);
    Vector<scalar_t, kChannels> x[4] = {};
    for_each_place(rows, cols,
                   [&](int k, int row, int col) { x[k] = group.load(corner + row * row_stride + col * s.channels); });
    Vector<scalar_t, kChannels> pooled;
    unsigned codes = 0;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      auto best = transform(i, x[0][i]);
      unsigned code = 0;
      for_each_place(rows, cols, [&](int k, int, int) {
        const auto value = transform(i, x[k][i]);
        const bool wins = k > 0 && pool_wins(value, best);
        best = wins ? value : best;
        code = wins ? static_cast<unsigned>(k) : code;
      });
      pooled[i] = from_acc<scalar_t>(best);
      codes |= (group.has(i) ? code : 0) << 2 * i;  // of absent channels nothing is known, not even a number
    }
    group.store(output + item * s.channels + place.channel, pooled);
    group.store_codes(p.codes + item * codes_bytes(s.channels) + place.channel / kCodesPerByte, codes);
  }
}

}  // namespace segnet_ext::cuda
