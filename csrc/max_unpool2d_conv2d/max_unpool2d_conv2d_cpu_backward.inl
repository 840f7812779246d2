// Backward: gradients of the input at the winners only, and of the weight over the winners only.

namespace max_unpool2d_conv2d {

template <class T, int kLanes>
SEGNET_INLINE T reduce_add(Vec<T, kLanes> v) {
  if constexpr (kLanes == 1) {
    return v[0];
  } else {
    struct Halves {
      Vec<T, kLanes / 2> low, high;
    };
    const auto halves = bit_cast<Halves>(v);
    return reduce_add<T, kLanes / 2>(halves.low + halves.high);
  }
}

// The gradient of a pooled value is the dot product of the output gradients around its winner with its channel's
// weights, taps reversed. Eight windows of a row are in flight; their gradients lie in a tile with a border of zeros,
// one block of output channels at a time.
struct GradInput {
  template <class scalar_t>
  static void run(const GradInputParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const Shape& s = p.shape;
    const int64_t groups = ceil_div(s.pooled_width, kWindowsInFlight);
    const int64_t padded_channels = codes_bytes(s.in_channels) * kCodesPerByte;
    const int64_t tile_rows = 2 + 2 * s.radius(), tile_cols = 2 * kWindowsInFlight + 2 * s.radius();
    const LineArray<acc_t> tile(new_lines<acc_t>(tile_rows * tile_cols * p.blocks.width));
    const std::unique_ptr<uint8_t[]> codes(new uint8_t[kWindowsInFlight * padded_channels]);
    const LineArray<acc_t> sums(new_lines<acc_t>(kWindowsInFlight * s.in_channels));

    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / (groups * s.pooled_height), i = task / groups % s.pooled_height;
      const int64_t j_begin = task % groups * kWindowsInFlight;
      const int64_t windows = std::min<int64_t>(kWindowsInFlight, s.pooled_width - j_begin);
      const auto* grad_output = static_cast<const scalar_t*>(p.grad_output) + n * s.height * s.width * s.out_channels;

      std::fill_n(codes.get(), kWindowsInFlight * padded_channels, uint8_t(0));
      for (int64_t u = 0; u < windows; ++u) {
        window_codes(s, p.codes, n, i, j_begin + u, 0, s.in_channels, codes.get() + u * padded_channels);
      }
      std::fill_n(sums.get(), kWindowsInFlight * s.in_channels, acc_t(0));
      for (int64_t block = 0; block < p.blocks.count; ++block) {
        copy_padded(grad_output, s, 2 * i - s.radius(), 2 * j_begin - s.radius(), tile_rows, tile_cols,
                    block * p.blocks.width, p.blocks.width, tile.get());
        add_dots(p, block, tile.get(), tile_cols, codes.get(), padded_channels, sums.get());
      }
      auto* to =
          static_cast<scalar_t*>(p.grad_input) + ((n * s.pooled_height + i) * s.pooled_width + j_begin) * s.in_channels;
      for_lanes<acc_t>(windows * s.in_channels, [&](int64_t c, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        store<kLanes>(to + c, load<kLanes>(sums.get() + c));
      });
    }
  }

  template <class acc_t>
  static void add_dots(const GradInputParams& p, int64_t block, const acc_t* tile, int64_t tile_cols,
                       const uint8_t* codes, int64_t padded_channels, acc_t* sums) {
    constexpr int kLanes = kLanesOf<acc_t>;
    const Shape& s = p.shape;
    const int64_t width = p.blocks.width;
    const int64_t row_length = s.kernel_size * width;
    const auto* weight = static_cast<const acc_t*>(p.weight) + block * s.in_channels * s.taps() * width;
    for (int64_t c = 0; c < s.in_channels; ++c, weight += s.taps() * width) {
      const acc_t* patch[kWindowsInFlight];
      Vec<acc_t, kLanes> dot[kWindowsInFlight] = {};
      for (int u = 0; u < kWindowsInFlight; ++u) {
        const int code = codes[u * padded_channels + c];
        patch[u] = tile + ((code >> 1) * tile_cols + 2 * u + (code & 1)) * width;
      }
      for (int64_t ky = 0; ky < s.kernel_size; ++ky) {
        const acc_t* weight_row = weight + ky * row_length;
        const int64_t tile_row = ky * tile_cols * width;
        for (int64_t e = 0; e < row_length; e += kLanes) {
          const auto w = load<kLanes>(weight_row + e);
          for (int u = 0; u < kWindowsInFlight; ++u) {
            dot[u] += w * load<kLanes>(patch[u] + tile_row + e);
          }
        }
      }
      for (int u = 0; u < kWindowsInFlight; ++u) {
        sums[u * s.in_channels + c] += reduce_add<acc_t, kLanes>(dot[u]);
      }
    }
  }
};

// sums[0 .. kVectors) += sum over windows of value * the gradients at `offset` from the window's winner.
template <class acc_t, int kVectors>
void add_outer(const acc_t* values, const uint32_t* offsets, int64_t count, const acc_t* tile, acc_t* sums) {
  constexpr int kLanes = kLanesOf<acc_t>;
  Vec<acc_t, kLanes> sum[kVectors] = {};
  for (int64_t e = 0; e < count; ++e) {
    const acc_t* grads = tile + offsets[e];
    const auto value = broadcast<acc_t, kLanes>(values[e]);
    for (int v = 0; v < kVectors; ++v) {
      sum[v] += value * load<kLanes>(grads + v * kLanes);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    store<kLanes>(sums + v * kLanes, load<kLanes>(sums + v * kLanes) + sum[v]);
  }
}

template <class acc_t>
using AddOuter = void (*)(const acc_t*, const uint32_t*, int64_t, const acc_t*, acc_t*);

template <class acc_t, int... kIndex>
AddOuter<acc_t> add_outer_of(int64_t vectors, std::integer_sequence<int, kIndex...>) {
  constexpr AddOuter<acc_t> table[] = {add_outer<acc_t, kIndex + 1>...};
  return table[vectors - 1];
}

// A task owns the weights of a few input channels and one block of output channels and walks the whole batch for them,
// so the order of its sums never changes. A tile's windows are listed by channel; along a list the sums of one row of
// taps stay in registers, all taps of the row at once, since their gradients lie side by side.
template <class scalar_t>
class GradWeightTask {
 public:
  using acc_t = acc_type<scalar_t>;

  explicit GradWeightTask(const GradWeightParams& params)
      : p_(params),
        s_(params.shape),
        tile_rows_(2 * kGradTileRows + 2 * s_.radius()),
        tile_cols_(2 * kGradTileCols + 2 * s_.radius()),
        row_length_(s_.kernel_size * params.blocks.width),
        tile_(new_lines<acc_t>(tile_rows_ * tile_cols_ * params.blocks.width)),
        sums_(new_lines<acc_t>(kGradChannels * s_.kernel_size * row_length_)),
        codes_(new uint8_t[kGradChannels]) {}

  void run(int64_t channel_block, int64_t block) {
    c_begin_ = channel_block * kGradChannels;
    channels_ = std::min(kGradChannels, s_.in_channels - c_begin_);
    std::fill_n(sums_.get(), kGradChannels * s_.kernel_size * row_length_, acc_t(0));
    for (int64_t n = 0; n < s_.batch; ++n) {
      const auto* grad_output =
          static_cast<const scalar_t*>(p_.grad_output) + n * s_.height * s_.width * s_.out_channels;
      for (int64_t i = 0; i < s_.pooled_height; i += kGradTileRows) {
        for (int64_t j = 0; j < s_.pooled_width; j += kGradTileCols) {
          copy_padded(grad_output, s_, 2 * i - s_.radius(), 2 * j - s_.radius(), tile_rows_, tile_cols_,
                      block * p_.blocks.width, p_.blocks.width, tile_.get());
          list_windows(n, i, j);
          add_tile();
        }
      }
    }
    write(block);
  }

 private:
  static constexpr int64_t kWindows = kGradTileRows * kGradTileCols;

  void list_windows(int64_t n, int64_t i_begin, int64_t j_begin) {
    const int64_t i_end = std::min(i_begin + kGradTileRows, s_.pooled_height);
    const int64_t j_end = std::min(j_begin + kGradTileCols, s_.pooled_width);
    const auto width = static_cast<uint32_t>(p_.blocks.width);
    uint8_t* codes = codes_.get();
    std::fill_n(counts_, kGradChannels, 0);
    for (int64_t i = i_begin; i < i_end; ++i) {
      for (int64_t j = j_begin; j < j_end; ++j) {
        const auto* input = static_cast<const scalar_t*>(p_.input) +
                            ((n * s_.pooled_height + i) * s_.pooled_width + j) * s_.in_channels + c_begin_;
        window_codes(s_, p_.codes, n, i, j, c_begin_, channels_, codes);
        for (int64_t c = 0; c < channels_; ++c) {
          const acc_t value = load<1>(input + c)[0];
          const int64_t row = 2 * (i - i_begin) + (codes[c] >> 1), col = 2 * (j - j_begin) + (codes[c] & 1);
          values_[c][counts_[c]] = value;
          offsets_[c][counts_[c]] = static_cast<uint32_t>(row * tile_cols_ + col) * width;
          counts_[c] += value != acc_t(0);
        }
      }
    }
  }

  void add_tile() {
    constexpr int kLanes = kLanesOf<acc_t>;
    const int64_t vectors = row_length_ / kLanes;
    for (int64_t c = 0; c < channels_; ++c) {
      for (int64_t ky = 0; ky < s_.kernel_size; ++ky) {
        const acc_t* tile = tile_.get() + ky * tile_cols_ * p_.blocks.width;
        acc_t* sums = sums_.get() + (c * s_.kernel_size + ky) * row_length_;
        for (int64_t v = 0; v < vectors; v += kGradWeightVectors) {
          const auto add = add_outer_of<acc_t>(std::min<int64_t>(kGradWeightVectors, vectors - v),
                                               std::make_integer_sequence<int, kGradWeightVectors>{});
          add(values_[c], offsets_[c], counts_[c], tile + v * kLanes, sums + v * kLanes);
        }
      }
    }
  }

  void write(int64_t block) {
    const int64_t taps = s_.taps();
    const int64_t k_begin = block * p_.blocks.width;
    const int64_t k_end = std::min(k_begin + p_.blocks.width, s_.out_channels);
    for (int64_t k = k_begin; k < k_end; ++k) {
      for (int64_t c = 0; c < channels_; ++c) {
        auto* to = static_cast<scalar_t*>(p_.grad_weight) + (k * s_.in_channels + c_begin_ + c) * taps;
        for (int64_t tap = 0; tap < taps; ++tap) {
          const acc_t* sum = sums_.get() + (c * taps + taps - 1 - tap) * p_.blocks.width + (k - k_begin);
          store<1>(to + tap, load<1>(sum));
        }
      }
    }
  }

  const GradWeightParams& p_;
  const Shape& s_;
  const int64_t tile_rows_, tile_cols_, row_length_;
  int64_t c_begin_ = 0, channels_ = 0;
  LineArray<acc_t> tile_;  // [tile_rows, tile_cols, width] output gradients
  LineArray<acc_t> sums_;  // [channel, reversed tap, width]
  std::unique_ptr<uint8_t[]> codes_;
  int64_t counts_[kGradChannels];
  acc_t values_[kGradChannels][kWindows + 1];
  uint32_t offsets_[kGradChannels][kWindows + 1];
};

struct GradWeight {
  template <class scalar_t>
  static void run(const GradWeightParams& p, int64_t begin, int64_t end) {
    GradWeightTask<scalar_t> task(p);
    for (int64_t t = begin; t < end; ++t) {
      task.run(t / p.blocks.count, t % p.blocks.count);
    }
  }
};

// Sums a block of output channels over all pixels: rows in acc_t, their total in double.
struct GradBias {
  template <class scalar_t>
  static void run(const GradBiasParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const Shape& s = p.shape;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t k_begin = task * kBiasChannels;
      const int64_t channels = std::min(kBiasChannels, s.out_channels - k_begin);
      double total[kBiasChannels] = {};
      for (int64_t row = 0; row < s.batch * s.height; ++row) {
        acc_t sums[kBiasChannels] = {};
        for (int64_t x = 0; x < s.width; ++x) {
          const auto* from =
              static_cast<const scalar_t*>(p.grad_output) + (row * s.width + x) * s.out_channels + k_begin;
          for_lanes<acc_t>(channels, [&](int64_t k, auto lanes) {
            constexpr int kLanes = decltype(lanes)::value;
            store<kLanes>(sums + k, load<kLanes>(sums + k) + load<kLanes>(from + k));
          });
        }
        for (int64_t k = 0; k < channels; ++k) {
          total[k] += sums[k];
        }
      }
      for (int64_t k = 0; k < channels; ++k) {
        const Vec<acc_t, 1> value = {static_cast<acc_t>(total[k])};
        store<1>(static_cast<scalar_t*>(p.grad_bias) + k_begin + k, value);
      }
    }
  }
};

}  // namespace max_unpool2d_conv2d
