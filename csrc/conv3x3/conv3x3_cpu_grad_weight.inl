// The gradient of the weights: at each point, the patches of all tiles times the gradients of their products.

namespace conv3x3 {

// The gradients of the 4x4 outputs of tiles [begin, end), channels [k, k + channels), at the points: a row a tile.
template <class scalar_t>
void transform_output_grads(const Shape& s, const scalar_t* grad_output, int64_t begin, int64_t end, int64_t k,
                            int64_t channels, const Planes<acc_type<scalar_t>>& planes) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kLanes = kLanesOf<acc_t>;
  using V = Vec<acc_t, kLanes>;
  if (s.direct()) {
    for (int64_t pixel = 0; pixel < s.pixels(); ++pixel) {
      for (int64_t i = 0; i < channels; i += kLanes) {
        const scalar_t* from = grad_output + pixel * s.out_channels + k + i;
        store<kLanes>(planes.at(0, pixel) + i, load_first<kLanes>(from, channels - i));
      }
    }
    return;
  }
  for (int64_t tile = begin; tile < end; ++tile) {
    const TilePlace place = tile_place<kGradTile>(s, tile);
    const int64_t rows = s.height - place.y, cols = s.width - place.x;  // of the map, from the tile on
    const scalar_t* from = grad_output + ((place.n * s.height + place.y) * s.width + place.x) * s.out_channels + k;
    acc_t* values = planes.at(0, tile - begin);
    for (int64_t i = 0; i < channels; i += kLanes) {
      transform_square<4, 6, V>(
          [](const auto& in, auto& out) { Winograd<acc_t, kGradTile>::transform_grads(in, out); },
          [&](int col, V(&column)[4]) {
            for (int row = 0; row < 4; ++row) {
              const scalar_t* pixel = from + (row * s.width + col) * s.out_channels + i;
              prefetch<kLanes>(pixel + 8 * s.out_channels);  // of the tile after the next
              column[row] = row < rows && col < cols ? load_first<kLanes>(pixel, channels - i) : V{};
            }
          },
          [&](int row, int col, V value) { store<kLanes>(values + (row * 6 + col) * planes.stride + i, value); });
    }
  }
}

// The gradients of the taps of the first `count` of kLanes input channels: [tap] of vectors to [input channel, tap].
template <class scalar_t, class acc_t, int kLanes>
SEGNET_INLINE void store_taps(const Vec<acc_t, kLanes> (&taps)[kTaps], int64_t count, scalar_t* to) {
  constexpr int kBlock = kTaps - 1;
  int64_t lane = 0;
  if constexpr (kLanes % kBlock == 0) {
    for (; lane + kBlock <= std::min<int64_t>(count, kLanes); lane += kBlock, to += kBlock * kTaps) {
      Vec<acc_t, kBlock> rows[kBlock];
      for (int tap = 0; tap < kBlock; ++tap) {
        __builtin_memcpy(&rows[tap], reinterpret_cast<const acc_t*>(&taps[tap]) + lane, sizeof(rows[tap]));
      }
      transpose(rows, std::make_integer_sequence<int, kBlock>{});
      for (int i = 0; i < kBlock; ++i) {
        store<kBlock>(to + i * kTaps, rows[i]);
        store<1>(to + i * kTaps + kBlock, Vec<acc_t, 1>{taps[kBlock][lane + i]});
      }
    }
  }
  for (; lane < std::min<int64_t>(count, kLanes); ++lane, to += kTaps) {
    for (int tap = 0; tap < kTaps; ++tap) {
      store<1>(to + tap, Vec<acc_t, 1>{taps[tap][lane]});
    }
  }
}

// From sums at the points to the gradients of the taps, for output channels [begin, end) of a block. `sums` are those
// of the first of p.parts parts, `part_stride` apart, which are added in their order.
template <class scalar_t>
void write_taps(const GradWeightParams& p, int64_t block, int64_t begin, int64_t end, const acc_type<scalar_t>* sums,
                int64_t part_stride) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kLanes = kLanesOf<acc_t>;
  using V = Vec<acc_t, kLanes>;
  const Shape& s = p.shape;
  const int64_t row_stride = grad_weight_row(s), plane_stride = grad_weight_plane(s);
  for (int64_t k = begin; k < end; ++k) {
    auto* to = static_cast<scalar_t*>(p.grad_weight) + (block * kGradBlock + k) * s.in_channels * kTaps;
    for (int64_t c = 0; c < s.in_channels; c += kLanes) {
      const int64_t count = s.in_channels - c;
      V taps[kTaps];
      if (s.direct()) {
        for (int tap = 0; tap < kTaps; ++tap) {
          taps[tap] = load<kLanes>(sums + tap * plane_stride + k * row_stride + c);
        }
      } else {
        transform_square<6, 3, V>(
            [](const auto& in, auto& out) { Winograd<acc_t, kGradTile>::transform_tap_grads(in, out); },
            [&](int col, V(&column)[6]) {
              for (int row = 0; row < 6; ++row) {
                const acc_t* from = sums + (row * 6 + col) * plane_stride + k * row_stride + c;
                prefetch<kLanes>(from + 4 * kLanes);  // more streams than the processor follows
                column[row] = load<kLanes>(from);
                for (int64_t part = 1; part < p.parts; ++part) {
                  column[row] += load<kLanes>(from + part * part_stride);
                }
              }
            },
            [&](int row, int col, V value) { taps[3 * row + col] = value; });
      }
      if (!p.channels_last) {
        store_taps<scalar_t, acc_t, kLanes>(taps, count, to + c * kTaps);
        continue;
      }
#pragma GCC unroll 1
      for (int tap = 0; tap < kTaps; ++tap) {
        store_first<kLanes>(to + tap * s.in_channels + c, taps[tap], count);
      }
    }
  }
}

struct GradWeightSums {
  template <class scalar_t>
  static void run(const GradWeightParams& p, Worker& worker) {
    using acc_t = acc_type<scalar_t>;
    const Shape& s = p.shape;
    const int64_t blocks = grad_weight_blocks(s), part_tiles = ceil_div(s.tiles(kGradTile), p.parts);
    const int64_t max_tiles = std::min(kGradTiles, part_tiles), sums_size = grad_weight_sums_size(s);
    // The last panel's columns past the last channel are multiplied too, and dropped.
    const int64_t columns = ceil_div(s.in_channels, kPanel<acc_t>) * kPanel<acc_t>;
    const int64_t rows = rows_of(s, max_tiles);
    const OwnPlanes<acc_t> patches(points_of(s, kGradTile), rows, stride_of<acc_t>(columns)),
        grads(s.direct() ? 1 : points(kGradTile), rows, stride_of<acc_t>(kGradBlock));
    for (int64_t row = 0; columns > s.in_channels && row < points_of(s, kGradTile) * rows; ++row) {
      acc_t* values = patches.at(row / rows, row % rows);
      std::fill(values + s.in_channels, values + columns, acc_t(0));
    }
    const LineArray<acc_t> own_sums(p.parts == 1 ? new_lines<acc_t>(sums_size) : nullptr);
    for (int64_t task; worker.take(task);) {
      const int64_t part = task / blocks, block = task % blocks;
      acc_t* sums = own_sums ? own_sums.get() : static_cast<acc_t*>(p.sums) + task * sums_size;
      const int64_t tile_begin = part * part_tiles, tile_end = std::min(tile_begin + part_tiles, s.tiles(kGradTile));
      for (int64_t tile = tile_begin; tile < tile_end; tile += kGradTiles) {
        const int64_t tiles = std::min(kGradTiles, tile_end - tile);
        transform_patches<kGradTile, scalar_t>(s, p.source, tile, tile + tiles, patches);
        add_tiles<scalar_t, acc_t>(p, block, tile, tiles, patches, grads, sums, tile > tile_begin);
      }
      if (own_sums) {
        write_taps<scalar_t>(p, block, 0, block_channels(s, block), sums, 0);
      }
    }
  }

  static int64_t block_channels(const Shape& s, int64_t block) {
    return std::min(kGradBlock, s.out_channels - block * kGradBlock);
  }

  template <class scalar_t, class acc_t>
  static void add_tiles(const GradWeightParams& p, int64_t block, int64_t tile, int64_t tiles,
                        const Planes<acc_t>& patches, const Planes<acc_t>& grads, acc_t* sums, bool accumulate) {
    const Shape& s = p.shape;
    const int64_t channels = block_channels(s, block), row_stride = grad_weight_row(s);
    const int64_t rows = rows_of(s, tiles);
    transform_output_grads(s, static_cast<const scalar_t*>(p.grad_output), tile, tile + tiles, block * kGradBlock,
                           channels, grads);
    for (int point = 0; point < points_of(s, kGradTile); ++point, sums += grad_weight_plane(s)) {
      for (int64_t c = 0; c < s.in_channels; c += kPanel<acc_t>) {
        multiply<acc_t, true>(channels, {kChain<scalar_t>, rows, grads.at(s.direct() ? 0 : point), grads.row_stride,
                                         patches.at(point) + c, patches.row_stride, sums + c, row_stride, accumulate});
      }
    }
  }
};

struct GradWeightTaps {
  template <class scalar_t>
  static void run(const GradWeightParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const int64_t blocks = grad_weight_blocks(p.shape), sums_size = grad_weight_sums_size(p.shape);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t block = k / kGradBlock, row = k % kGradBlock;
      write_taps<scalar_t>(p, block, row, row + 1, static_cast<const acc_t*>(p.sums) + block * sums_size,
                           blocks * sums_size);
    }
  }
};

}  // namespace conv3x3
