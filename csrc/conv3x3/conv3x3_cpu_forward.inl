// Forward, which with other weights is also the gradient of the input.

namespace conv3x3 {

template <class scalar_t>
class ForwardTask {
 public:
  using acc_t = acc_type<scalar_t>;
  static constexpr int kTile = forward_tile(sizeof(scalar_t) == 2 ? DType::kHalf : DType::kFloat);
  static constexpr int kLanes = kLanesOf<acc_t>;
  using V = Vec<acc_t, kLanes>;
  using Outputs = V[kTile][kTile];

  ForwardTask(const ForwardParams& params, int64_t max_tiles)
      : p_(params),
        s_(params.shape),
        past_caches_(p_.result == Result::kMap && streams(p_.output, s_.pixels(), s_.out_channels * sizeof(scalar_t),
                                                          kPanel<acc_t> * sizeof(scalar_t))),
        own_patches_(p_.patches == nullptr ? points_of(s_, kTile) : 0, rows_of(s_, max_tiles),
                     stride_of<acc_t>(s_.in_channels)),
        patches_(own_patches_),
        taps_(p_.points == nullptr ? new_lines<acc_t>(taps_size<acc_t>(s_)) : nullptr),
        weights_(s_.direct() || p_.points != nullptr ? 0 : points(kTile), std::min(kWeightChannels, s_.in_channels),
                 kPanel<acc_t>),
        products_(s_.direct() ? 1 : points(kTile), rows_of(s_, max_tiles), kPanel<acc_t>) {}

  // p.patches
  static Planes<acc_t> all_patches(const ForwardParams& p) {
    return {p.shape.tiles(kTile), stride_of<acc_t>(p.shape.in_channels), static_cast<acc_t*>(p.patches)};
  }

  void run(int64_t tile_begin, int64_t tile_end, int64_t k_begin, int64_t k_end) {
    if (p_.patches != nullptr) {
      patches_ = all_patches(p_).from_row(tile_begin);
    } else if (tile_begin != patches_begin_) {  // else they are those of the task before
      transform_patches<kTile, scalar_t>(s_, p_.source, tile_begin, tile_end, patches_);
      patches_begin_ = tile_begin;
    }
    for (int64_t k = k_begin; k < k_end; k += kPanel<acc_t>) {
      const int64_t channels = std::min<int64_t>(kPanel<acc_t>, k_end - k);
      multiply_panel(tile_end - tile_begin, k, channels);
      for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
        write(tile, tile - tile_begin, k, channels);
      }
    }
    stream_fence();
  }

 private:
  void multiply_panel(int64_t tiles, int64_t k, int64_t k_channels) {
    for (int64_t c = 0; c < s_.in_channels; c += kWeightChannels) {
      const int64_t channels = std::min(kWeightChannels, s_.in_channels - c);
      if (p_.points != nullptr) {
        multiply_points(tiles, c, channels, panel_of_points<kTile, acc_t>(p_, k, c));
        continue;
      }
      gather_taps<scalar_t>(p_.weight, k, k_channels, c, c + channels, taps_.get());
      if (s_.direct()) {
        for (int tap = 0; tap < kTaps; ++tap) {
          multiply<acc_t, false>(s_.pixels(), {kChain<scalar_t>, channels, patches_.at(tap) + c, patches_.row_stride,
                                               taps_.get() + tap * kPanel<acc_t>, kTaps * kPanel<acc_t>,
                                               products_.at(0), products_.row_stride, c > 0 || tap > 0});
        }
        continue;
      }
      transform_weights<kTile, acc_t>(taps_.get(), channels, weights_);
      multiply_points(tiles, c, channels, weights_);
    }
  }

  // Input channels [c, c + channels), whose weights these are.
  void multiply_points(int64_t tiles, int64_t c, int64_t channels, const Planes<acc_t>& weights) {
    for (int point = 0; point < points(kTile); ++point) {
      multiply<acc_t, false>(
          tiles, {kChain<scalar_t>, channels, patches_.at(point) + c, patches_.row_stride, weights.at(point),
                  weights.row_stride, products_.at(point), products_.row_stride, c > 0});
    }
  }

  // The outputs of a tile, channels [k, k + channels).
  void write(int64_t tile, int64_t tile_row, int64_t k, int64_t channels) {
    const TilePlace place = tile_place<kTile>(s_, tile);
    const int64_t vectors = ceil_div(channels, kLanes);
    Outputs out[kVectors];
#pragma GCC unroll 1
    for (int v = 0; v < vectors; ++v) {
      outputs(place, tile_row, k + v * kLanes, v * kLanes, channels - v * kLanes, out[v]);
    }
    if (p_.result == Result::kMap) {
      return write_map(place, k, channels, out);
    }
#pragma GCC unroll 1
    for (int v = 0; v < vectors; ++v) {
      if (p_.result == Result::kPool) {
        write_pool(place, k + v * kLanes, channels - v * kLanes, out[v]);
      } else {
        write_winners(place, k + v * kLanes, channels - v * kLanes, out[v]);
      }
    }
  }

  // Of the channels from k on, of which `count` are there; they lie at i in the panel.
  SEGNET_INLINE void outputs(const TilePlace& place, int64_t tile_row, int64_t k, int64_t i, int64_t count,
                             Outputs& out) {
    const V bias = p_.bias == nullptr ? V{} : load_first<kLanes>(static_cast<const scalar_t*>(p_.bias) + k, count);
    const auto put = [&](int row, int col, V sum) { out[row][col] = p_.relu ? relu(sum + bias) : sum + bias; };
    if (s_.direct()) {
      for (int row = 0; row < std::min<int64_t>(kTile, s_.height - place.y); ++row) {
        for (int col = 0; col < std::min<int64_t>(kTile, s_.width - place.x); ++col) {
          put(row, col, load<kLanes>(products_.at(0, pixel_index(s_, place, row, col)) + i));
        }
      }
      return;
    }
    transform_square<patch_side(kTile), kTile, V>(
        [](const auto& in, auto& result) { Winograd<acc_t, kTile>::transform_products(in, result); },
        [&](int col, auto& column) {
          for (int row = 0; row < patch_side(kTile); ++row) {
            column[row] = load<kLanes>(products_.at(row * patch_side(kTile) + col, tile_row) + i);
          }
        },
        put);
  }

  // A pixel's vectors one after the other: whole cache lines where they go past the caches.
  SEGNET_INLINE void write_map(const TilePlace& place, int64_t k, int64_t channels, const Outputs (&out)[kVectors]) {
    const int64_t rows = std::min<int64_t>(kTile, s_.height - place.y);
    const int64_t cols = std::min<int64_t>(kTile, s_.width - place.x);
    for (int row = 0; row < rows; ++row) {
      for (int col = 0; col < cols; ++col) {
        scalar_t* to = static_cast<scalar_t*>(p_.output) + pixel_index(s_, place, row, col) * s_.out_channels + k;
        if (channels == kPanel<acc_t>) {
          for (int v = 0; v < kVectors; ++v) {
            store<kLanes>(to + v * kLanes, out[v][row][col], past_caches_);
          }
        } else {
          for (int v = 0; v < ceil_div(channels, kLanes); ++v) {
            store_first<kLanes>(to + v * kLanes, out[v][row][col], channels - v * kLanes);
          }
        }
      }
    }
  }

  // Calls body(row, column, window index, rows and columns that it has in the map) for the windows of a tile.
  template <class Body>
  SEGNET_INLINE void for_each_window(const TilePlace& place, const Body& body) {
    const int64_t i = place.y / 2, j = place.x / 2;
    for (int row = 0; row < kTile / 2 && i + row < p_.pooled_height; ++row) {
      for (int col = 0; col < kTile / 2 && j + col < p_.pooled_width; ++col) {
        body(row, col, (place.n * p_.pooled_height + i + row) * p_.pooled_width + j + col,
             static_cast<int>(window_extent(i + row, s_.height)), static_cast<int>(window_extent(j + col, s_.width)));
      }
    }
  }

  void write_pool(const TilePlace& place, int64_t k, int64_t count, const Outputs& out) {
    for_each_window(place, [&](int row, int col, int64_t window, int rows, int cols) {
      const auto value_at = [&](int r, int c) {  // an earlier one's instead of one that is not there
        return round_to<scalar_t, kLanes>(out[2 * row + std::min(r, rows - 1)][2 * col + std::min(c, cols - 1)]);
      };
      const V values[4] = {value_at(0, 0), value_at(0, 1), value_at(1, 0), value_at(1, 1)};
      const auto winners =
          winners_of<acc_t, kLanes>(values, [](auto value, auto best) { return pool_wins(value, best); });
      store_first<kLanes>(static_cast<scalar_t*>(p_.output) + window * s_.out_channels + k, winners.values, count);
      store_first_codes<kLanes>(p_.codes_out + window * codes_bytes(s_.out_channels), k, count,
                                clip_codes(winners.codes(), rows, cols));
    });
  }

  void write_winners(const TilePlace& place, int64_t k, int64_t count, const Outputs& out) {
    for_each_window(place, [&](int row, int col, int64_t window, int rows, int cols) {
      const auto code =
          load_first_codes<acc_t, kLanes>(p_.codes + window * codes_bytes(s_.out_channels), k, count, rows, cols);
      V value = out[2 * row][2 * col];
      for (int at = 1; at < 4; ++at) {
        value = code == code_lanes<acc_t, kLanes>(static_cast<uint32_t>(at)) ? out[2 * row + at / 2][2 * col + at % 2]
                                                                             : value;
      }
      store_first<kLanes>(static_cast<scalar_t*>(p_.output) + window * s_.out_channels + k, value, count);
    });
  }

  const ForwardParams& p_;
  const Shape& s_;
  const bool past_caches_;
  int64_t patches_begin_ = -1;  // the first tile that there are patches of
  const OwnPlanes<acc_t> own_patches_;
  Planes<acc_t> patches_;            // [tile, input channel]
  const LineArray<acc_t> taps_;      // [input channel, tap, output channel of a panel]
  const OwnPlanes<acc_t> weights_;   // [input channel, output channel of a panel]; those of kWeightChannels
  const OwnPlanes<acc_t> products_;  // [tile, output channel of a panel]; where it is direct, sums over the points
};

struct ForwardPoints {
  template <class scalar_t>
  static void run(const ForwardParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    constexpr int kTile = ForwardTask<scalar_t>::kTile;
    const Shape& s = p.shape;
    const LineArray<acc_t> taps = new_lines<acc_t>(taps_size<acc_t>(s));
    const int64_t last = std::min(end * kPointChannels, s.out_channels);
    for (int64_t k = begin * kPointChannels; k < last; k += kPanel<acc_t>) {
      for (int64_t c = 0; c < s.in_channels; c += kWeightChannels) {
        const int64_t channels = std::min(kWeightChannels, s.in_channels - c);
        gather_taps<scalar_t>(p.weight, k, std::min<int64_t>(kPanel<acc_t>, last - k), c, c + channels, taps.get());
        transform_weights<kTile>(taps.get(), channels, panel_of_points<kTile, acc_t>(p, k, c));
      }
    }
  }
};

struct ForwardPatches {
  template <class scalar_t>
  static void run(const ForwardParams& p, int64_t begin, int64_t end) {
    constexpr int kTile = ForwardTask<scalar_t>::kTile;
    const auto patches = ForwardTask<scalar_t>::all_patches(p).from_row(begin);
    transform_patches<kTile, scalar_t>(p.shape, p.source, begin, end, patches);
  }
};

struct Forward {
  template <class scalar_t>
  static void run(const ForwardParams& p, const Tasks& tasks, Worker& worker) {
    const int64_t tiles = ceil_div(p.shape.tiles(ForwardTask<scalar_t>::kTile), tasks.tile_blocks);
    const int64_t channels =
        ceil_div(ceil_div(p.shape.out_channels, kPointChannels), tasks.channel_blocks) * kPointChannels;
    ForwardTask<scalar_t> task(p, tiles);
    for (int64_t i; worker.take(i);) {
      const int64_t tile = i / tasks.channel_blocks * tiles, k = i % tasks.channel_blocks * channels;
      task.run(tile, std::min(tile + tiles, p.shape.tiles(ForwardTask<scalar_t>::kTile)), k,
               std::min(k + channels, p.shape.out_channels));
    }
  }
};

}  // namespace conv3x3
