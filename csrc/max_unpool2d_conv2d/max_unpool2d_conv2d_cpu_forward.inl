// Forward: sparse values times dense weight rows.
//
// A tile of windows is worked on at a time. For each block of input channels the values of every window are sorted into
// four lists, by the place of the winner: that is the unpooled map, zeros left out. An output pixel's list is the chain
// of the lists at the pixels its taps see, each entry with the weight row that it meets. The chained lists serve all
// output channel blocks; the sums of one pixel stay in registers along its list.

namespace max_unpool2d_conv2d {

constexpr int64_t kChannelBlock = 16;  // input channels a list covers, a multiple of kCodesPerByte
constexpr int64_t kCopy = 8;           // entries moved at a time; lists have so much room behind them

// sums[0 .. kVectors) = start + sum over entries of value * weight row. `row_width` is kVectors vectors.
template <class acc_t, int kVectors>
void run_list(const acc_t* values, const uint32_t* rows, int64_t count, const acc_t* weight, const acc_t* start,
              acc_t* sums) {
  constexpr int kLanes = kLanesOf<acc_t>;
  constexpr int64_t kRowWidth = kVectors * kLanes;
  Vec<acc_t, kLanes> sum[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    sum[v] = load<kLanes>(start + v * kLanes);
  }
  for (int64_t e = 0; e < count; ++e) {
    const acc_t* row = weight + rows[e] * kRowWidth;
    const auto value = broadcast<acc_t, kLanes>(values[e]);
    for (int v = 0; v < kVectors; ++v) {
      sum[v] += value * load<kLanes>(row + v * kLanes);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    store<kLanes>(sums + v * kLanes, sum[v]);
  }
}

template <class acc_t>
using RunList = void (*)(const acc_t*, const uint32_t*, int64_t, const acc_t*, const acc_t*, acc_t*);

template <class acc_t, int... kIndex>
RunList<acc_t> run_list_of(int64_t vectors, std::integer_sequence<int, kIndex...>) {
  constexpr RunList<acc_t> table[] = {run_list<acc_t, kIndex + 1>...};
  return table[vectors - 1];
}

// The work space of one thread, made once and used for all its tiles.
template <class scalar_t>
class ForwardTile {
 public:
  using acc_t = acc_type<scalar_t>;

  explicit ForwardTile(const ForwardParams& params)
      : p_(params),
        s_(params.shape),
        halo_((s_.radius() + 1) / 2),
        windows_across_(kTileCols + 2 * halo_),
        channel_blocks_(ceil_div(s_.in_channels, kChannelBlock)),
        run_list_(run_list_of<acc_t>(params.blocks.width / kLanesOf<acc_t>,
                                     std::make_integer_sequence<int, kForwardVectors>{})) {
    const int64_t windows = (kTileRows + 2 * halo_) * windows_across_;
    const int64_t pixels = (2 * kTileRows + 1) * (2 * kTileCols + 1);
    const int64_t windows_seen = ((s_.kernel_size + 1) / 2) * ((s_.kernel_size + 1) / 2);
    codes_.reset(new uint8_t[kChannelBlock]);
    block_values_ = new_lines<acc_t>(kChannelBlock);
    place_counts_.reset(new int[4 * windows]);
    place_values_ = new_lines<acc_t>(4 * windows * kPlaceRoom);
    place_rows_.reset(new uint32_t[4 * windows * kPlaceRoom]);
    values_ = new_lines<acc_t>(pixels * windows_seen * s_.in_channels + kCopy);
    rows_.reset(new uint32_t[pixels * windows_seen * s_.in_channels + kCopy]);
    starts_.reset(new int64_t[pixels * channel_blocks_ + 1]);
    sums_ = new_lines<acc_t>(pixels * params.blocks.width);
  }

  void run(int64_t n, int64_t tile_row, int64_t tile_col) {
    n_ = n;
    i_begin_ = tile_row * kTileRows;
    j_begin_ = tile_col * kTileCols;
    // The last tile takes an odd last row or column that no window covers.
    const bool last_row = i_begin_ + kTileRows >= s_.pooled_height, last_col = j_begin_ + kTileCols >= s_.pooled_width;
    y_begin_ = 2 * i_begin_;
    x_begin_ = 2 * j_begin_;
    y_end_ = last_row ? s_.height : y_begin_ + 2 * kTileRows;
    x_end_ = last_col ? s_.width : x_begin_ + 2 * kTileCols;

    int64_t entries = 0;
    for (int64_t block = 0; block < channel_blocks_; ++block) {
      sort_by_place(block);
      entries = chain_lists(block, entries);
    }
    for (int64_t block = 0; block < p_.blocks.count; ++block) {
      multiply(block);
      write(block);
    }
  }

 private:
  static constexpr int64_t kPlaceRoom = kChannelBlock + kCopy;

  int64_t pixels() const { return (y_end_ - y_begin_) * (x_end_ - x_begin_); }
  int64_t window_index(int64_t i, int64_t j) const {
    return (i - i_begin_ + halo_) * windows_across_ + (j - j_begin_ + halo_);
  }

  // The values of a block of input channels, window by window, in lists by winner's place. Zeros are left out.
  void sort_by_place(int64_t block) {
    const int64_t c_begin = block * kChannelBlock;
    const int64_t channels = std::min(kChannelBlock, s_.in_channels - c_begin);
    const auto taps = static_cast<uint32_t>(s_.taps());
    uint8_t* codes = codes_.get();
    acc_t* values = block_values_.get();
    const int64_t i_end = std::min(i_begin_ + kTileRows + halo_, s_.pooled_height);
    const int64_t j_end = std::min(j_begin_ + kTileCols + halo_, s_.pooled_width);
    for (int64_t i = std::max<int64_t>(i_begin_ - halo_, 0); i < i_end; ++i) {
      for (int64_t j = std::max<int64_t>(j_begin_ - halo_, 0); j < j_end; ++j) {
        const auto* from = static_cast<const scalar_t*>(p_.input) +
                           ((n_ * s_.pooled_height + i) * s_.pooled_width + j) * s_.in_channels + c_begin;
        for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
          constexpr int kLanes = decltype(lanes)::value;
          store<kLanes>(values + c, load<kLanes>(from + c));
        });
        window_codes(s_, p_.codes, n_, i, j, c_begin, channels, codes);
        const int64_t window = window_index(i, j);
        int counts[4] = {0, 0, 0, 0};
        for (int64_t c = 0; c < channels; ++c) {
          const int place = codes[c];
          const int64_t at = (4 * window + place) * kPlaceRoom + counts[place];
          place_values_[at] = values[c];
          place_rows_[at] = static_cast<uint32_t>(c) * taps;
          counts[place] += values[c] != acc_t(0);
        }
        std::copy_n(counts, 4, place_counts_.get() + 4 * window);
      }
    }
  }

  // Each output pixel's list for a block of input channels, appended at `entries`; the new end is returned.
  int64_t chain_lists(int64_t block, int64_t entries) {
    const int64_t radius = s_.radius();
    int64_t* start = starts_.get() + block * pixels();
    for (int64_t y = y_begin_; y < y_end_; ++y) {
      for (int64_t x = x_begin_; x < x_end_; ++x) {
        *start++ = entries;
        for (int64_t ky = 0; ky < s_.kernel_size; ++ky) {
          const int64_t row = y + ky - radius;
          if (row < 0 || row >= 2 * s_.pooled_height) {
            continue;
          }
          for (int64_t kx = 0; kx < s_.kernel_size; ++kx) {
            const int64_t col = x + kx - radius;
            if (col < 0 || col >= 2 * s_.pooled_width) {
              continue;
            }
            const int64_t place = 4 * window_index(row >> 1, col >> 1) + 2 * (row & 1) + (col & 1);
            entries = append(place, static_cast<uint32_t>(ky * s_.kernel_size + kx), entries);
          }
        }
      }
    }
    *start = entries;
    return entries;
  }

  // Copies whole vectors: what lies behind the list is overwritten by the next one.
  SEGNET_INLINE int64_t append(int64_t place, uint32_t tap, int64_t entries) {
    const int64_t count = place_counts_[place];
    const acc_t* values = place_values_.get() + place * kPlaceRoom;
    const uint32_t* rows = place_rows_.get() + place * kPlaceRoom;
    for (int64_t e = 0; e < count; e += kCopy) {
      uint32_t moved[kCopy];
      for (int64_t k = 0; k < kCopy; ++k) {
        moved[k] = rows[e + k] + tap;
      }
      __builtin_memcpy(values_.get() + entries + e, values + e, kCopy * sizeof(acc_t));
      __builtin_memcpy(rows_.get() + entries + e, moved, sizeof(moved));
    }
    return entries + count;
  }

  void multiply(int64_t block) {
    const int64_t width = p_.blocks.width;
    const auto* bias = static_cast<const acc_t*>(p_.bias) + block * width;
    const int64_t count = pixels();
    for (int64_t c_block = 0; c_block < channel_blocks_; ++c_block) {
      const auto* weight =
          static_cast<const acc_t*>(p_.weight) + (block * s_.in_channels + c_block * kChannelBlock) * s_.taps() * width;
      const int64_t* starts = starts_.get() + c_block * count;
      for (int64_t pixel = 0; pixel < count; ++pixel) {
        acc_t* sums = sums_.get() + pixel * width;
        run_list_(values_.get() + starts[pixel], rows_.get() + starts[pixel], starts[pixel + 1] - starts[pixel], weight,
                  c_block == 0 ? bias : sums, sums);
      }
    }
  }

  void write(int64_t block) {
    const int64_t width = p_.blocks.width;
    const int64_t k_begin = block * width;
    const int64_t channels = std::min(width, s_.out_channels - k_begin);
    const acc_t* sums = sums_.get();
    for (int64_t y = y_begin_; y < y_end_; ++y) {
      for (int64_t x = x_begin_; x < x_end_; ++x, sums += width) {
        auto* to =
            static_cast<scalar_t*>(p_.output) + ((n_ * s_.height + y) * s_.width + x) * s_.out_channels + k_begin;
        for_lanes<acc_t>(channels, [&](int64_t k, auto lanes) {
          constexpr int kLanes = decltype(lanes)::value;
          const auto sum = load<kLanes>(sums + k);
          store<kLanes>(to + k, p_.relu ? relu(sum) : sum);
        });
      }
    }
  }

  const ForwardParams& p_;
  const Shape& s_;
  const int64_t halo_, windows_across_, channel_blocks_;
  const RunList<acc_t> run_list_;
  int64_t n_ = 0, i_begin_ = 0, j_begin_ = 0, y_begin_ = 0, x_begin_ = 0, y_end_ = 0, x_end_ = 0;

  std::unique_ptr<uint8_t[]> codes_;        // of one window's channel block
  LineArray<acc_t> block_values_;           // of one window's channel block
  std::unique_ptr<int[]> place_counts_;     // [window, place]
  LineArray<acc_t> place_values_;           // [window, place, kPlaceRoom]
  std::unique_ptr<uint32_t[]> place_rows_;  // [window, place, kPlaceRoom] weight row of tap 0
  LineArray<acc_t> values_;                 // lists by [channel block, pixel]
  std::unique_ptr<uint32_t[]> rows_;        // the weight row of each entry, inside its channel block
  std::unique_ptr<int64_t[]> starts_;       // [channel block * pixel + 1]
  LineArray<acc_t> sums_;                   // [pixel, width]
};

struct Forward {
  template <class scalar_t>
  static void run(const ForwardParams& p, int64_t begin, int64_t end) {
    ForwardTile<scalar_t> tile(p);
    const int64_t down = ceil_div(p.shape.pooled_height, kTileRows);
    const int64_t across = ceil_div(p.shape.pooled_width, kTileCols);
    for (int64_t task = begin; task < end; ++task) {
      tile.run(task / (down * across), task / across % down, task % across);
    }
  }
};

}  // namespace max_unpool2d_conv2d
