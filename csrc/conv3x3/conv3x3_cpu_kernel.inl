// What the kernels share. Compiled once for each SIMD level by foreach_level.h.
#include "common/pool.inl"
#include "conv3x3/conv3x3_cpu_multiply.inl"
#include "conv3x3/conv3x3_cpu_transforms.inl"

namespace conv3x3 {

using segnet_ext::conv3x3::ForwardParams;
using segnet_ext::conv3x3::grad_weight_blocks;
using segnet_ext::conv3x3::GradWeightParams;
using segnet_ext::conv3x3::kGradBlock;
using segnet_ext::conv3x3::Result;
using segnet_ext::conv3x3::Shape;
using segnet_ext::conv3x3::Source;
using segnet_ext::conv3x3::Tasks;
using segnet_ext::conv3x3::Weight;

constexpr int64_t kPoints = 36;
constexpr int kTaps = 9;

// The distance between rows of `size` elements that are read or written in turn: an odd number of cache lines, since
// rows a power of two apart would compete for a few places of the cache.
template <class acc_t>
int64_t stride_of(int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(acc_t);
  return (ceil_div(size, kLine) | 1) * kLine;
}

// A row, column or window that is not there reads as zero.
template <int kLanesHere, class scalar_t>
SEGNET_INLINE Vec<acc_type<scalar_t>, kLanesHere> source_value(const Source& source, const scalar_t* from, int64_t c) {
  using acc_t = acc_type<scalar_t>;
  const auto value = load<kLanesHere>(from + c);
  if (source.scale == nullptr) {
    return value;
  }
  const BatchNormAffine<Vec<acc_t, kLanesHere>> affine{load<kLanesHere>(static_cast<const acc_t*>(source.scale) + c),
                                                       load<kLanesHere>(static_cast<const acc_t*>(source.shift) + c)};
  return relu(affine(value));
}

// A tile's image and the first row and column of its outputs.
struct TilePlace {
  int64_t n, y, x;
};
inline TilePlace tile_place(const Shape& s, int64_t tile) {
  return {tile / (s.tiles_down() * s.tiles_across()), tile / s.tiles_across() % s.tiles_down() * 4,
          tile % s.tiles_across() * 4};
}

// Several matrices [rows, columns], one for each point.
template <class T>
struct Planes {
  int64_t row_stride, stride;
  std::unique_ptr<T[]> data;

  Planes(int64_t rows, int64_t columns)
      : row_stride(stride_of<T>(columns)), stride(stride_of<T>(rows * row_stride)), data(new T[kPoints * stride]) {}

  T* at(int64_t point, int64_t row = 0) const { return data.get() + point * stride + row * row_stride; }
};

// The 6x6 patches of tiles [begin, end) at the points: a row a tile.
template <class scalar_t>
void transform_patches(const Shape& s, const Source& source, int64_t begin, int64_t end,
                       const Planes<acc_type<scalar_t>>& planes) {
  using acc_t = acc_type<scalar_t>;
  for (int64_t tile = begin; tile < end; ++tile) {
    const TilePlace place = tile_place(s, tile);
    const int64_t n = place.n, y = place.y - 1, x = place.x - 1;
    acc_t* values = planes.at(0, tile - begin);
    const auto transform = [](const auto& in, auto& out) { Winograd<acc_t>::transform_data(in, out); };
    const auto store_values = [&](int64_t c, auto lanes, const auto& pixel) {
      constexpr int kLanesHere = decltype(lanes)::value;
      transform_square<6, 6, Vec<acc_t, kLanesHere>>(transform, pixel, [&](int row, int col, auto value) {
        store<kLanesHere>(values + (row * 6 + col) * planes.stride + c, value);
      });
    };

    if (source.codes == nullptr) {
      const scalar_t* pixels[6][6];
      for (int row = 0; row < 6; ++row) {
        for (int col = 0; col < 6; ++col) {
          const bool inside = y + row >= 0 && y + row < s.height && x + col >= 0 && x + col < s.width;
          pixels[row][col] = inside ? static_cast<const scalar_t*>(source.map) +
                                          ((n * s.height + y + row) * s.width + x + col) * s.in_channels
                                    : nullptr;
        }
      }
      for_lanes<acc_t>(s.in_channels, [&](int64_t c, auto lanes) {
        constexpr int kLanesHere = decltype(lanes)::value;
        store_values(c, lanes, [&](int row, int col) {
          return pixels[row][col] ? source_value<kLanesHere>(source, pixels[row][col], c) : Vec<acc_t, kLanesHere>{};
        });
      });
    } else {
      // The patch meets 4x4 windows; it begins with the last row and column of the first ones.
      const scalar_t* windows[4][4];
      const uint8_t* codes[4][4];
      int64_t rows[4], cols[4];  // that a window has inside the map
      for (int row = 0; row < 4; ++row) {
        for (int col = 0; col < 4; ++col) {
          const int64_t i = (y - 1) / 2 + row, j = (x - 1) / 2 + col;
          const bool inside = i >= 0 && i < source.pooled_height && j >= 0 && j < source.pooled_width;
          const int64_t window = (n * source.pooled_height + i) * source.pooled_width + j;
          windows[row][col] = inside ? static_cast<const scalar_t*>(source.map) + window * s.in_channels : nullptr;
          codes[row][col] = inside ? source.codes + window * codes_bytes(s.in_channels) : nullptr;
          rows[row] = window_extent(i, s.height);
          cols[col] = window_extent(j, s.width);
        }
      }
      for_lanes<acc_t>(s.in_channels, [&](int64_t c, auto lanes) {
        constexpr int kLanesHere = decltype(lanes)::value;
        Vec<acc_t, kLanesHere> value[4][4] = {};
        Vec<mask_type<acc_t>, kLanesHere> code[4][4] = {};
        for (int row = 0; row < 4; ++row) {
          for (int col = 0; col < 4; ++col) {
            if (windows[row][col]) {
              value[row][col] = source_value<kLanesHere>(source, windows[row][col], c);
              code[row][col] = load_codes<acc_t, kLanesHere>(codes[row][col], c, static_cast<int>(rows[row]),
                                                             static_cast<int>(cols[col]));
            }
          }
        }
        store_values(c, lanes, [&](int row, int col) {
          const int i = (row + 1) / 2, j = (col + 1) / 2;
          const auto wanted = code_lanes<acc_t, kLanesHere>(static_cast<uint32_t>(2 * ((row + 1) % 2) + (col + 1) % 2));
          return code[i][j] == wanted ? value[i][j] : Vec<acc_t, kLanesHere>{};
        });
      });
    }
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

// The taps of `channels` output channels from k on, of input channels [begin, end): to [c, tap, panel], zero past the
// last output channel.
template <class scalar_t>
void gather_taps(const Weight& weight, int64_t k, int64_t channels, int64_t begin, int64_t end,
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
    for (int tap = 0; channels < kPanel<acc_t> && tap < kTaps; ++tap) {
      std::fill(row(tap) + channels, row(tap) + kPanel<acc_t>, acc_t(0));
    }
  }
}

// Taps [c, tap, panel] of `count` input channels at the points: a row an input channel.
template <class acc_t>
void transform_weights(const acc_t* taps, int64_t count, const Planes<acc_t>& planes) {
  constexpr int kLanes = kLanesOf<acc_t>;
  for (int64_t c = 0; c < count; ++c, taps += kTaps * kPanel<acc_t>) {
    for (int64_t v = 0; v < kPanel<acc_t>; v += kLanes) {
      acc_t* values = planes.at(0, c) + v;
      transform_square<3, 6, Vec<acc_t, kLanes>>(
          [](const auto& in, auto& out) { Winograd<acc_t>::transform_taps(in, out); },
          [&](int row, int col) { return load<kLanes>(taps + (3 * row + col) * kPanel<acc_t> + v); },
          [&](int row, int col, auto value) { store<kLanes>(values + (row * 6 + col) * planes.stride, value); });
    }
  }
}

}  // namespace conv3x3

#include "conv3x3/conv3x3_cpu_forward.inl"
#include "conv3x3/conv3x3_cpu_grad_weight.inl"
