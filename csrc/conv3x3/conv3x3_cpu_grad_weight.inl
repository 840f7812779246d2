// The gradient of the weights: at each point, the patches of all tiles times the gradients of their products.

namespace conv3x3 {

// The gradients of the 4x4 outputs of tiles [begin, end), channels [k, k + channels), at the points: a row a tile.
template <class scalar_t>
void transform_output_grads(const Shape& s, const scalar_t* grad_output, int64_t begin, int64_t end, int64_t k,
                            int64_t channels, const Planes<acc_type<scalar_t>>& planes) {
  using acc_t = acc_type<scalar_t>;
  for (int64_t tile = begin; tile < end; ++tile) {
    const TilePlace place = tile_place(s, tile);
    const int64_t rows = std::min<int64_t>(4, s.height - place.y), cols = std::min<int64_t>(4, s.width - place.x);
    const scalar_t* from = grad_output + ((place.n * s.height + place.y) * s.width + place.x) * s.out_channels + k;
    acc_t* values = planes.at(0, tile - begin);
    for_lanes<acc_t>(channels, [&](int64_t i, auto lanes) {
      constexpr int kLanesHere = decltype(lanes)::value;
      using V = Vec<acc_t, kLanesHere>;
      transform_square<4, 6, V>(
          [](const auto& in, auto& out) { Winograd<acc_t>::transform_grads(in, out); },
          [&](int row, int col) {
            return row < rows && col < cols ? load<kLanesHere>(from + (row * s.width + col) * s.out_channels + i) : V{};
          },
          [&](int row, int col, V value) { store<kLanesHere>(values + (row * 6 + col) * planes.stride + i, value); });
    });
    // The panel's columns past the last channel are multiplied too, and dropped.
    for (int64_t point = 0; channels % kPanel<acc_t> != 0 && point < kPoints; ++point) {
      std::fill(values + point * planes.stride + channels,
                values + point * planes.stride + ceil_div(channels, kPanel<acc_t>) * kPanel<acc_t>, acc_t(0));
    }
  }
}

// From sums at the points to the gradients of the taps, for a block of output channels and input channels [begin, end).
// `sums` are those of the first of p.parts parts, `part_stride` apart, which are added in their order.
template <class scalar_t>
void write_taps(const GradWeightParams& p, int64_t block, int64_t begin, int64_t end, const acc_type<scalar_t>* sums,
                int64_t part_stride) {
  using acc_t = acc_type<scalar_t>;
  const Shape& s = p.shape;
  const int64_t channels = std::min(kGradBlock, s.out_channels - block * kGradBlock);
  auto* grad_weight = static_cast<scalar_t*>(p.grad_weight) + block * kGradBlock * s.in_channels * kTaps;
  for (int64_t c = begin; c < end; ++c) {
    for_lanes<acc_t>(channels, [&](int64_t i, auto lanes) {
      constexpr int kLanesHere = decltype(lanes)::value;
      using V = Vec<acc_t, kLanesHere>;
      const auto sum_of_parts = [&](int row, int col) {
        const acc_t* from = sums + ((row * 6 + col) * s.in_channels + c) * kGradBlock + i;
        V sum = load<kLanesHere>(from);
        for (int64_t part = 1; part < p.parts; ++part) {
          sum += load<kLanesHere>(from + part * part_stride);
        }
        return sum;
      };
      const auto store_tap = [&](int row, int col, V value) {
        for (int lane = 0; lane < kLanesHere; ++lane) {
          store<1>(grad_weight + ((i + lane) * s.in_channels + c) * kTaps + 3 * row + col, Vec<acc_t, 1>{value[lane]});
        }
      };
      transform_square<6, 3, V>([](const auto& in, auto& out) { Winograd<acc_t>::transform_tap_grads(in, out); },
                                sum_of_parts, store_tap);
    });
  }
}

struct GradWeightSums {
  template <class scalar_t>
  static void run(const GradWeightParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const Shape& s = p.shape;
    const int64_t blocks = grad_weight_blocks(s), part_tiles = ceil_div(s.tiles(), p.parts);
    const int64_t max_tiles = std::min(kTaskTiles, part_tiles);
    const int64_t sums_size = kPoints * s.in_channels * kGradBlock;
    const Planes<acc_t> patches(max_tiles, s.in_channels), grads(max_tiles, kGradBlock);
    const std::unique_ptr<acc_t[]> own_sums(p.parts == 1 ? new acc_t[sums_size] : nullptr);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / blocks, block = task % blocks;
      acc_t* sums = own_sums ? own_sums.get() : static_cast<acc_t*>(p.sums) + task * sums_size;
      const int64_t tile_begin = part * part_tiles, tile_end = std::min(tile_begin + part_tiles, s.tiles());
      for (int64_t tile = tile_begin; tile < tile_end; tile += kTaskTiles) {
        const int64_t tiles = std::min(kTaskTiles, tile_end - tile);
        transform_patches<scalar_t>(s, p.source, tile, tile + tiles, patches);
        add_tiles<scalar_t>(p, block, tile, tiles, patches, grads, sums, tile > tile_begin);
      }
      if (own_sums) {
        write_taps<scalar_t>(p, block, 0, s.in_channels, sums, 0);
      }
    }
  }

  template <class scalar_t, class acc_t>
  static void add_tiles(const GradWeightParams& p, int64_t block, int64_t tile, int64_t tiles,
                        const Planes<acc_t>& patches, const Planes<acc_t>& grads, acc_t* sums, bool accumulate) {
    const Shape& s = p.shape;
    const int64_t k = block * kGradBlock, channels = std::min(kGradBlock, s.out_channels - k);
    transform_output_grads(s, static_cast<const scalar_t*>(p.grad_output), tile, tile + tiles, k, channels, grads);
    for (int64_t point = 0; point < kPoints; ++point, sums += s.in_channels * kGradBlock) {
      for (int64_t i = 0; i < channels; i += kPanel<acc_t>) {
        multiply<acc_t, true>(s.in_channels, tiles, patches.at(point), patches.row_stride, grads.at(point) + i,
                              grads.row_stride, sums + i, kGradBlock, accumulate);
      }
    }
  }
};

struct GradWeightTaps {
  template <class scalar_t>
  static void run(const GradWeightParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const int64_t blocks = grad_weight_blocks(p.shape), sums_size = kPoints * p.shape.in_channels * kGradBlock;
    for (int64_t block = 0; block < blocks; ++block) {
      write_taps<scalar_t>(p, block, begin, end, static_cast<const acc_t*>(p.sums) + block * sums_size,
                           blocks * sums_size);
    }
  }
};

}  // namespace conv3x3
