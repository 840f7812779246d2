// What the forward and backward kernels share. Compiled once for each SIMD level by foreach_level.h.

namespace max_unpool2d_conv2d {

using segnet_ext::max_unpool2d_conv2d::ChannelBlocks;
using segnet_ext::max_unpool2d_conv2d::ForwardParams;
using segnet_ext::max_unpool2d_conv2d::GradBiasParams;
using segnet_ext::max_unpool2d_conv2d::GradInputParams;
using segnet_ext::max_unpool2d_conv2d::GradWeightParams;
using segnet_ext::max_unpool2d_conv2d::Shape;

// Vector registers that hold accumulators: 8 of AVX2's 16 leave room for a broadcast value and addresses.
constexpr int kForwardVectors = 8;
constexpr int kGradWeightVectors = 12;

// Bytes of grad_input's gradient tile: it stays in L1 beside the weights that stream past it.
constexpr int64_t kGradTileBytes = 20 * 1024;

// Cuts `channels` into the fewest equal blocks of at most max_vectors vectors.
template <class acc_t>
ChannelBlocks equal_blocks(int64_t channels, int64_t max_vectors) {
  constexpr int64_t kLanes = kLanesOf<acc_t>;
  const int64_t count = ceil_div(channels, max_vectors * kLanes);
  return {count, ceil_div(ceil_div(channels, count), kLanes) * kLanes};
}

// A window's codes for channels [begin, begin + count), begin a multiple of four, one in a byte, clipped to the map.
SEGNET_INLINE void window_codes(const Shape& s, const uint8_t* packed, int64_t n, int64_t i, int64_t j, int64_t begin,
                                int64_t count, uint8_t* codes) {
  const int mask = code_mask(window_extent(i, s.height), window_extent(j, s.width));
  const uint8_t* from =
      packed + ((n * s.pooled_height + i) * s.pooled_width + j) * codes_bytes(s.in_channels) + begin / kCodesPerByte;
  const uint32_t mask_of_four = static_cast<uint32_t>(mask) * 0x01010101u;
  for (int64_t b = 0; b < codes_bytes(count); ++b) {
    const uint32_t word = unpack_codes(from[b]) & mask_of_four;
    __builtin_memcpy(codes + kCodesPerByte * b, &word, sizeof(word));
  }
}

// Copies the pixels [y, y + rows) x [x, x + cols) of a map [H, W, K], channels [begin, begin + width), to
// tile [rows, cols, width] of acc_t; what lies outside the map is zero.
template <class scalar_t>
void copy_padded(const scalar_t* map, const Shape& s, int64_t y, int64_t x, int64_t rows, int64_t cols, int64_t begin,
                 int64_t width, acc_type<scalar_t>* tile) {
  using acc_t = acc_type<scalar_t>;
  const int64_t count = std::min(width, s.out_channels - begin);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c, tile += width) {
      const int64_t row = y + r, col = x + c;
      int64_t filled = 0;
      if (row >= 0 && row < s.height && col >= 0 && col < s.width) {
        const scalar_t* from = map + (row * s.width + col) * s.out_channels + begin;
        for_lanes<acc_t>(count, [&](int64_t i, auto lanes) {
          constexpr int kLanes = decltype(lanes)::value;
          store<kLanes>(tile + i, load<kLanes>(from + i));
        });
        filled = count;
      }
      std::fill(tile + filled, tile + width, acc_t(0));
    }
  }
}

// The blocks that suit each kernel: sums in registers for forward and grad_weight (a whole row of taps at once, if it
// fits), a gradient tile in L1 for grad_input.
struct ForwardBlocks {
  template <class scalar_t>
  static void run(const Shape& s, ChannelBlocks& blocks) {
    blocks = equal_blocks<acc_type<scalar_t>>(s.out_channels, kForwardVectors);
  }
};
struct GradInputBlocks {
  template <class scalar_t>
  static void run(const Shape& s, ChannelBlocks& blocks) {
    using acc_t = acc_type<scalar_t>;
    const int64_t tile_pixels = (2 + 2 * s.radius()) * (2 * kWindowsInFlight + 2 * s.radius());
    const int64_t vectors = kGradTileBytes / (tile_pixels * SEGNET_SIMD_BYTES);
    blocks = equal_blocks<acc_t>(s.out_channels, std::max<int64_t>(1, vectors));
  }
};
struct GradWeightBlocks {
  template <class scalar_t>
  static void run(const Shape& s, ChannelBlocks& blocks) {
    const int64_t vectors = std::max<int64_t>(1, kGradWeightVectors / s.kernel_size);
    blocks = equal_blocks<acc_type<scalar_t>>(s.out_channels, vectors);
  }
};

// A transpose of [K, C * taps] to [C * taps, width] for each block of K, a few input channels at a time: their part of
// the result stays in L1 while each of its columns is read in one run.
struct PackWeight {
  static constexpr int64_t kRows = 64;

  template <class scalar_t>
  static void run(const Shape& s, const ChannelBlocks& blocks, bool flip, const void* weight, void* packed) {
    using acc_t = acc_type<scalar_t>;
    const int64_t taps = s.taps(), width = blocks.width;
    const int64_t step = std::max<int64_t>(1, kRows / taps);
    for (int64_t block = 0; block < blocks.count; ++block) {
      const int64_t channels = std::min(width, s.out_channels - block * width);
      for (int64_t c = 0; c < s.in_channels; c += step) {
        const int64_t rows = std::min(step, s.in_channels - c) * taps;
        auto* to = static_cast<acc_t*>(packed) + (block * s.in_channels + c) * taps * width;
        if (channels < width) {
          std::fill_n(to, rows * width, acc_t(0));
        }
        for (int64_t lane = 0; lane < channels; ++lane) {
          const auto* from = static_cast<const scalar_t*>(weight) + ((block * width + lane) * s.in_channels + c) * taps;
          for (int64_t row = 0; row < rows; row += taps) {
            for (int64_t tap = 0; tap < taps; ++tap) {
              const int64_t from_tap = flip ? taps - 1 - tap : tap;
              to[(row + tap) * width + lane] = load<1>(from + row + from_tap)[0];
            }
          }
        }
      }
    }
  }
};

}  // namespace max_unpool2d_conv2d

#include "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_backward.inl"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_forward.inl"
