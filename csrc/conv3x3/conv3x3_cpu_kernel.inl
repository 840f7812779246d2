// What the kernels share. Compiled once for each SIMD level by foreach_level.h.
#include "common/pool.inl"
#include "conv3x3/conv3x3_cpu_multiply.inl"
#include "conv3x3/conv3x3_cpu_transforms.inl"

namespace conv3x3 {

using segnet_ext::conv3x3::forward_tile;
using segnet_ext::conv3x3::ForwardParams;
using segnet_ext::conv3x3::grad_weight_blocks;
using segnet_ext::conv3x3::grad_weight_plane;
using segnet_ext::conv3x3::grad_weight_row;
using segnet_ext::conv3x3::grad_weight_sums_size;
using segnet_ext::conv3x3::GradWeightParams;
using segnet_ext::conv3x3::kGradBlock;
using segnet_ext::conv3x3::kGradTile;
using segnet_ext::conv3x3::kPointChannels;
using segnet_ext::conv3x3::Result;
using segnet_ext::conv3x3::Shape;
using segnet_ext::conv3x3::Source;
using segnet_ext::conv3x3::Tasks;
using segnet_ext::conv3x3::Weight;

constexpr int kTaps = 9;

// The sides of a tile's patch, and the points in all.
constexpr int patch_side(int tile) {
  return tile + 2;
}
constexpr int points(int tile) {
  return patch_side(tile) * patch_side(tile);
}
inline int points_of(const Shape& s, int tile) {
  return s.direct() ? kTaps : points(tile);
}
// Rows of a matrix of `tiles` tiles.
inline int64_t rows_of(const Shape& s, int64_t tiles) {
  return s.direct() ? s.pixels() : tiles;
}

// The map of a Source, for channels c and on, of which `count` are taken.
template <class scalar_t>
class SourceLanes {
 public:
  using acc_t = acc_type<scalar_t>;
  static constexpr int kLanes = kLanesOf<acc_t>;
  using V = Vec<acc_t, kLanes>;

  SourceLanes(const Source& source, int64_t c, int64_t count = kLanes)
      : count_(count),
        normalized_(source.scale != nullptr),
        affine_{normalized_ ? load_first<kLanes>(static_cast<const acc_t*>(source.scale) + c, count) : V{},
                normalized_ ? load_first<kLanes>(static_cast<const acc_t*>(source.shift) + c, count) : V{}} {}

  // Of the pixel whose channel c this is.
  SEGNET_INLINE V whole(const scalar_t* from) const { return value(load<kLanes>(from)); }
  SEGNET_INLINE V first(const scalar_t* from) const { return value(load_first<kLanes>(from, count_)); }

 private:
  SEGNET_INLINE V value(V v) const { return normalized_ ? relu(affine_(v)) : v; }

  int64_t count_;
  bool normalized_;
  BatchNormAffine<V> affine_;
};

// A tile's image and the first row and column of its outputs.
struct TilePlace {
  int64_t n, y, x;
};
template <int kTile>
TilePlace tile_place(const Shape& s, int64_t tile) {
  const int64_t down = s.tiles_down(kTile), across = s.tiles_across(kTile);
  return {tile / (down * across), tile / across % down * kTile, tile % across * kTile};
}

inline int64_t pixel_index(const Shape& s, const TilePlace& place, int64_t y, int64_t x) {
  return (place.n * s.height + place.y + y) * s.width + place.x + x;
}

// Several matrices, one for each point.
template <class T>
struct Planes {
  int64_t row_stride, stride;
  T* data;

  Planes(int64_t rows, int64_t row_stride_, T* data_)
      : row_stride(row_stride_), stride(stride_of<T>(rows * row_stride)), data(data_) {}

  int64_t size(int64_t points) const { return points * stride; }
  T* at(int64_t point, int64_t row = 0) const { return data + point * stride + row * row_stride; }
  Planes from_row(int64_t row) const {
    Planes planes = *this;
    planes.data = at(0, row);
    return planes;
  }
};

// With memory of their own.
template <class T>
struct OwnPlanes : Planes<T> {
  LineArray<T> lines;

  OwnPlanes(int64_t points, int64_t rows, int64_t row_stride_)
      : Planes<T>(rows, row_stride_, nullptr), lines(new_lines<T>(this->size(points))) {
    this->data = lines.get();
  }
};

// The pixels of a tile's patch, a vector of channels each: [column + 1, row + 1], with room for one more on each side,
// so that the windows that it meets fit whole.
template <int kTile, class acc_t>
using PatchPixels = Vec<acc_t, kLanesOf<acc_t>>[patch_side(kTile) + 2][patch_side(kTile) + 2];

// A tile's patch of a map.
template <class scalar_t, int kTile>
class DensePatch {
 public:
  static constexpr int kSide = patch_side(kTile);
  using Lanes = SourceLanes<scalar_t>;
  using V = typename Lanes::V;

  DensePatch(const Shape& s, const Source& source, const TilePlace& place)
      : s_(s),
        source_(source),
        place_(place),
        first_(static_cast<const scalar_t*>(source.map) +
               ((place.n * s.height + place.y - 1) * s.width + place.x - 1) * s.in_channels) {}

  // Whether all of it lies inside the map.
  bool inside() const {
    return place_.y > 0 && place_.y + kTile + 1 <= s_.height && place_.x > 0 && place_.x + kTile + 1 <= s_.width;
  }

  // A whole vector of channels of columns 0, 1, ... in turn, of a patch inside.
  class Columns {
   public:
    Columns(const DensePatch& patch, int64_t c) : patch_(patch), lanes_(patch.source_, c), c_(c) {}

    SEGNET_INLINE void operator()(int col, V (&pixels)[kSide]) const {
      for (int row = 0; row < kSide; ++row) {
        const scalar_t* from = patch_.pixel(row, col) + c_;
        prefetch<Lanes::kLanes>(from + 2 * kTile * patch_.s_.in_channels);  // of the tile after the next
        pixels[row] = lanes_.whole(from);
      }
    }

   private:
    const DensePatch& patch_;
    const Lanes lanes_;
    int64_t c_;
  };

  // Of any patch: `count` channels from c on; what lies outside the map is zero.
  __attribute__((noinline)) void gather(int64_t c, int64_t count,
                                        PatchPixels<kTile, acc_type<scalar_t>>& pixels) const {
    const Lanes lanes(source_, c, count);
#pragma GCC unroll 1
    for (int col = 0; col < kSide; ++col) {
#pragma GCC unroll 1
      for (int row = 0; row < kSide; ++row) {
        const int64_t y = place_.y - 1 + row, x = place_.x - 1 + col;
        const bool there = y >= 0 && y < s_.height && x >= 0 && x < s_.width;
        pixels[col + 1][row + 1] = there ? lanes.first(pixel(row, col) + c) : V{};
      }
    }
  }

 private:
  SEGNET_INLINE const scalar_t* pixel(int row, int col) const {
    return first_ + (row * s_.width + col) * s_.in_channels;
  }

  const Shape& s_;
  const Source& source_;
  const TilePlace place_;
  const scalar_t* first_;
};

// The same of the map that unpooling makes. Of the windows that the patch meets, the first ones give it their last row
// and column.
template <class scalar_t, int kTile>
class UnpooledPatch {
 public:
  static constexpr int kSide = patch_side(kTile);
  static constexpr int kWindows = kTile / 2 + 2;
  using acc_t = acc_type<scalar_t>;
  using Lanes = SourceLanes<scalar_t>;
  static constexpr int kLanes = Lanes::kLanes;
  using V = typename Lanes::V;
  using Codes = Vec<mask_type<acc_t>, kLanes>;

  UnpooledPatch(const Shape& s, const Source& source, const TilePlace& place)
      : s_(s), source_(source), place_(place), bytes_(codes_bytes(s.in_channels)) {
    const int64_t window = (place.n * source.pooled_height + place.y / 2 - 1) * source.pooled_width + place.x / 2 - 1;
    first_ = static_cast<const scalar_t*>(source.map) + window * s.in_channels;
    codes_ = source.codes + window * bytes_;
  }

  bool inside() const {
    constexpr int kAfter = kWindows - 1;  // from the tile's first window on
    return place_.y > 0 && place_.y + 2 * kAfter <= s_.height && place_.y / 2 + kAfter <= source_.pooled_height &&
           place_.x > 0 && place_.x + 2 * kAfter <= s_.width && place_.x / 2 + kAfter <= source_.pooled_width;
  }

  class Columns {
   public:
    Columns(const UnpooledPatch& patch, int64_t c) : patch_(patch), lanes_(patch.source_, c), c_(c) {}

    SEGNET_INLINE void operator()(int col, V (&pixels)[kSide]) {
      if (col == 0 || col % 2 == 1) {
        load_windows((col + 1) / 2);
      }
      for (int row = 0; row < kSide; ++row) {
        const int i = (row + 1) / 2;
        pixels[row] = codes_[i] == places_[2 * ((row + 1) % 2) + (col + 1) % 2] ? values_[i] : V{};
      }
    }

   private:
    SEGNET_INLINE void load_windows(int column) {
      for (int row = 0; row < kWindows; ++row) {
        const int64_t window = row * patch_.source_.pooled_width + column;
        const scalar_t* from = patch_.first_ + window * patch_.s_.in_channels + c_;
        prefetch<kLanes>(from + kTile * patch_.s_.in_channels);  // of the tile after the next
        values_[row] = lanes_.whole(from);
        codes_[row] = load_codes<acc_t, kLanes>(patch_.codes_ + window * patch_.bytes_, c_, 2, 2);
      }
    }

    const UnpooledPatch& patch_;
    const Lanes lanes_;
    int64_t c_;
    V values_[kWindows] = {};
    Codes codes_[kWindows] = {};
    // Kept, since GCC would make them lane by lane for every column.
    const Codes places_[4] = {code_lanes<acc_t, kLanes>(0), code_lanes<acc_t, kLanes>(1), code_lanes<acc_t, kLanes>(2),
                              code_lanes<acc_t, kLanes>(3)};
  };

  __attribute__((noinline)) void gather(int64_t c, int64_t count, PatchPixels<kTile, acc_t>& pixels) const {
    const Lanes lanes(source_, c, count);
    const Codes places[4] = {code_lanes<acc_t, kLanes>(0), code_lanes<acc_t, kLanes>(1), code_lanes<acc_t, kLanes>(2),
                             code_lanes<acc_t, kLanes>(3)};
#pragma GCC unroll 1
    for (int column = 0; column < kWindows; ++column) {
#pragma GCC unroll 1
      for (int row = 0; row < kWindows; ++row) {
        const int64_t i = place_.y / 2 - 1 + row, j = place_.x / 2 - 1 + column;
        V value{};
        Codes code{};
        if (i >= 0 && i < source_.pooled_height && j >= 0 && j < source_.pooled_width) {
          const int64_t window = row * source_.pooled_width + column;
          value = lanes.first(first_ + window * s_.in_channels + c);
          code = load_first_codes<acc_t, kLanes>(codes_ + window * bytes_, c, count, window_extent(i, s_.height),
                                                 window_extent(j, s_.width));
        }
        for (int place = 0; place < 4; ++place) {
          pixels[2 * column + place % 2][2 * row + place / 2] = code == places[place] ? value : V{};
        }
      }
    }
  }

 private:
  const Shape& s_;
  const Source& source_;
  const TilePlace place_;
  const scalar_t* first_;
  const uint8_t* codes_;
  int64_t bytes_;
};

// A patch at the points, from columns(column, vectors) for columns 0, 1, ... in turn.
template <int kTile, class acc_t, class Columns>
SEGNET_INLINE void transform_columns(Columns&& columns, acc_t* values, int64_t stride) {
  constexpr int kLanes = kLanesOf<acc_t>, kSide = patch_side(kTile);
  transform_square<kSide, kSide, Vec<acc_t, kLanes>>(
      [](const auto& in, auto& out) { Winograd<acc_t, kTile>::transform_data(in, out); }, columns,
      [=](int row, int col, auto value) { store<kLanes>(values + (row * kSide + col) * stride, value); });
}

// A function of its own, since it serves all kinds of patches.
template <int kTile, class acc_t>
__attribute__((noinline)) void transform_pixels(const PatchPixels<kTile, acc_t>& pixels, acc_t* values,
                                                int64_t stride) {
  const auto columns = [&](int col, auto& column) {
    for (int row = 0; row < patch_side(kTile); ++row) {
      column[row] = pixels[col + 1][row + 1];
    }
  };
  transform_columns<kTile>(columns, values, stride);
}

// Where the convolution is direct, the taps are the points, and pixels the tiles.
template <int kTile, class acc_t>
void store_pixels(const PatchPixels<kTile, acc_t>& pixels, const Shape& s, const TilePlace& place, int64_t c,
                  const Planes<acc_t>& planes) {
  for (int y = 0; y < std::min<int64_t>(kTile, s.height - place.y); ++y) {
    for (int x = 0; x < std::min<int64_t>(kTile, s.width - place.x); ++x) {
#pragma GCC unroll 1
      for (int tap = 0; tap < kTaps; ++tap) {
        store<kLanesOf<acc_t>>(planes.at(tap, pixel_index(s, place, y, x)) + c,
                               pixels[1 + x + tap % 3][1 + y + tap / 3]);
      }
    }
  }
}

// The patches of tiles [begin, end) at the points: a row a tile.
template <int kTile, class scalar_t, template <class, int> class Patch>
void transform_patches_of(const Shape& s, const Source& source, int64_t begin, int64_t end,
                          const Planes<acc_type<scalar_t>>& planes) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kLanes = kLanesOf<acc_t>;
  for (int64_t tile = begin; tile < end; ++tile) {
    const TilePlace place = tile_place<kTile>(s, tile);
    const Patch<scalar_t, kTile> patch(s, source, place);
    auto* values = planes.at(0, tile - begin);
    int64_t c = 0;
    if (!s.direct() && patch.inside()) {
      for (; c + kLanes <= s.in_channels; c += kLanes) {
        typename Patch<scalar_t, kTile>::Columns columns(patch, c);
        transform_columns<kTile>(columns, values + c, planes.stride);
      }
    }
    for (; c < s.in_channels; c += kLanes) {  // rows of planes are whole vectors
      PatchPixels<kTile, acc_t> pixels;
      patch.gather(c, s.in_channels - c, pixels);
      if (s.direct()) {
        store_pixels<kTile>(pixels, s, place, c, planes);
      } else {
        transform_pixels<kTile>(pixels, values + c, planes.stride);
      }
    }
  }
}
template <int kTile, class scalar_t>
void transform_patches(const Shape& s, const Source& source, int64_t begin, int64_t end,
                       const Planes<acc_type<scalar_t>>& planes) {
  if (source.codes == nullptr) {
    transform_patches_of<kTile, scalar_t, DensePatch>(s, source, begin, end, planes);
  } else {
    transform_patches_of<kTile, scalar_t, UnpooledPatch>(s, source, begin, end, planes);
  }
}

// Rows to columns: `rows` becomes its transpose.
template <class V, int... kIndex>
SEGNET_INLINE void transpose(V (&rows)[sizeof...(kIndex)], std::integer_sequence<int, kIndex...>) {
  constexpr int kSize = sizeof...(kIndex);
  // Interleaving the two halves of the rows moves the place of a row by one bit; after as many rounds as an index has
  // bits it is that of the column.
  for (int round = 1; round < kSize; round *= 2) {
    V next[kSize];
    for (int i = 0; i < kSize / 2; ++i) {
      const V a = rows[i], b = rows[i + kSize / 2];
      next[2 * i] = __builtin_shufflevector(a, b, (kIndex / 2 + kIndex % 2 * kSize)...);
      next[2 * i + 1] = __builtin_shufflevector(a, b, (kIndex / 2 + kSize / 2 + kIndex % 2 * kSize)...);
    }
    for (int i = 0; i < kSize; ++i) {
      rows[i] = next[i];
    }
  }
}

// gather_taps of a weight whose taps lie side by side. Like its twins it fetches what it reads a step or some later,
// since the processor does not foresee strides as large as these.
template <class scalar_t>
void gather_contiguous_taps(const Weight& weight, int64_t k, int64_t channels, int64_t begin, int64_t end,
                            acc_type<scalar_t>* to) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kBlock = 8;  // taps and output channels that are transposed at a time; the ninth tap goes alone
  for (int64_t c = begin; c < end; ++c, to += kTaps * kPanel<acc_t>) {
    const auto* from = static_cast<const scalar_t*>(weight.data) + k * weight.k_stride + c * weight.c_stride;
    const auto row = [&](int tap) { return to + (weight.flip ? kTaps - 1 - tap : tap) * kPanel<acc_t>; };
    int64_t i = 0;
    if constexpr (kPanel<acc_t> % kBlock == 0) {
      for (; i + kBlock <= channels; i += kBlock, from += kBlock * weight.k_stride) {
        Vec<acc_t, kBlock> taps[kBlock];
        for (int lane = 0; lane < kBlock; ++lane) {
          prefetch<kBlock>(from + lane * weight.k_stride + 4 * weight.c_stride);
          taps[lane] = load<kBlock>(from + lane * weight.k_stride);
          store<1>(row(kBlock) + i + lane, load<1>(from + lane * weight.k_stride + kBlock));
        }
        transpose(taps, std::make_integer_sequence<int, kBlock>{});
        for (int tap = 0; tap < kBlock; ++tap) {
          store<kBlock>(row(tap) + i, taps[tap]);
        }
      }
    }
    for (; i < channels; ++i, from += weight.k_stride) {
      for (int tap = 0; tap < kTaps; ++tap) {
        store<1>(row(tap) + i, load<1>(from + tap));
      }
    }
  }
}

// gather_taps of a weight whose input channels lie side by side.
template <class scalar_t>
void gather_channels_last_taps(const Weight& weight, int64_t k, int64_t channels, int64_t begin, int64_t end,
                               acc_type<scalar_t>* to) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kBlock = 8;
  const int64_t next_tap = weight.flip ? -weight.tap_stride : weight.tap_stride;
  for (int tap = 0; tap < kTaps; ++tap, to += kPanel<acc_t>) {
    const auto* plane = static_cast<const scalar_t*>(weight.data) + k * weight.k_stride +
                        (weight.flip ? kTaps - 1 - tap : tap) * weight.tap_stride;
    const auto copy = [&](int64_t c_begin, int64_t c_end, int64_t i_begin) {
      for (int64_t i = i_begin; i < channels; ++i) {
        for (int64_t c = c_begin; c < c_end; ++c) {
          store<1>(to + (c - begin) * kTaps * kPanel<acc_t> + i, load<1>(plane + i * weight.k_stride + c));
        }
      }
    };
    int64_t c = begin;
    if constexpr (kPanel<acc_t> % kBlock == 0) {
      for (; c + kBlock <= end; c += kBlock) {
        int64_t i = 0;
        for (; i + kBlock <= channels; i += kBlock) {
          Vec<acc_t, kBlock> block[kBlock];
          for (int lane = 0; lane < kBlock; ++lane) {
            const scalar_t* from = plane + (i + lane) * weight.k_stride + c;
            prefetch<kBlock>(from + next_tap);
            block[lane] = load<kBlock>(from);
          }
          transpose(block, std::make_integer_sequence<int, kBlock>{});
          for (int lane = 0; lane < kBlock; ++lane) {
            store<kBlock>(to + (c - begin + lane) * kTaps * kPanel<acc_t> + i, block[lane]);
          }
        }
        copy(c, c + kBlock, i);
      }
    }
    copy(c, end, 0);
  }
}

// gather_taps of a weight whose output channels lie side by side.
template <class scalar_t>
void copy_taps(const Weight& weight, int64_t k, int64_t channels, int64_t begin, int64_t end, acc_type<scalar_t>* to) {
  using acc_t = acc_type<scalar_t>;
  for (int64_t c = begin; c < end; ++c) {
    for (int tap = 0; tap < kTaps; ++tap, to += kPanel<acc_t>) {
      const auto* from = static_cast<const scalar_t*>(weight.data) + k + c * weight.c_stride +
                         (weight.flip ? kTaps - 1 - tap : tap) * weight.tap_stride;
      for (int64_t i = 0; i < channels; i += kLanesOf<acc_t>) {
        prefetch<kLanesOf<acc_t>>(from + 2 * weight.c_stride + i);
        store<kLanesOf<acc_t>>(to + i, load_first<kLanesOf<acc_t>>(from + i, channels - i));
      }
    }
  }
}

// The taps of `channels` output channels from k on, of input channels [begin, end): to [c, tap, panel], zero past the
// last output channel.
template <class scalar_t>
void gather_taps(const Weight& weight, int64_t k, int64_t channels, int64_t begin, int64_t end,
                 acc_type<scalar_t>* to) {
  using acc_t = acc_type<scalar_t>;
  const auto gather = weight.tap_stride == 1 ? gather_contiguous_taps<scalar_t>
                      : weight.c_stride == 1 ? gather_channels_last_taps<scalar_t>
                                             : copy_taps<scalar_t>;
  gather(weight, k, channels, begin, end, to);
  for (int64_t row = 0; channels < kPanel<acc_t> && row < (end - begin) * kTaps; ++row) {
    std::fill(to + row * kPanel<acc_t> + channels, to + (row + 1) * kPanel<acc_t>, acc_t(0));
  }
}

// Taps [c, tap, panel] of `count` input channels at the points: a row an input channel. Their rounding errors are the
// same for every pixel, so that they add up in the gradients of a BatchNorm: where products are rounded too, the
// transform is in double.
template <int kTile, class acc_t>
void transform_weights(const acc_t* taps, int64_t count, const Planes<acc_t>& planes) {
  constexpr int kLanes = kLanesOf<acc_t>;
  using T = std::conditional_t<kFused, acc_t, double>;
  for (int64_t c = 0; c < count; ++c, taps += kTaps * kPanel<acc_t>) {
    for (int64_t v = 0; v < kPanel<acc_t>; v += kLanes) {
      acc_t* values = planes.at(0, c) + v;
      transform_square<3, patch_side(kTile), Vec<T, kLanes>>(
          [](const auto& in, auto& out) { Winograd<T, kTile>::transform_taps(in, out); },
          [&](int col, auto& column) {
            for (int row = 0; row < 3; ++row) {
              column[row] =
                  __builtin_convertvector(load<kLanes>(taps + (3 * row + col) * kPanel<acc_t> + v), Vec<T, kLanes>);
            }
          },
          [&](int row, int col, auto value) {
            store<kLanes>(values + (row * patch_side(kTile) + col) * planes.stride,
                          __builtin_convertvector(value, Vec<acc_t, kLanes>));
          });
    }
  }
}

template <class acc_t>
int64_t taps_size(const Shape& s) {
  return std::min(kWeightChannels, s.in_channels) * kTaps * kPanel<acc_t>;
}

// Of all weights at the points, those of the panel of output channels that begins with k, from input channel c on:
// [input channel, output channel]. The panels of a block of kPointChannels lie one behind the other, at each point.
template <int kTile, class acc_t>
Planes<acc_t> panel_of_points(const ForwardParams& p, int64_t k, int64_t c) {
  const int64_t channels = p.shape.in_channels;
  Planes<acc_t> planes(channels * (kPointChannels / kPanel<acc_t>), kPanel<acc_t>, static_cast<acc_t*>(p.points));
  planes.data +=
      k / kPointChannels * planes.size(points(kTile)) + k % kPointChannels * channels + c * planes.row_stride;
  return planes;
}

}  // namespace conv3x3

#include "conv3x3/conv3x3_cpu_forward.inl"
#include "conv3x3/conv3x3_cpu_grad_weight.inl"
