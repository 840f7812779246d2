// The product of a block's tile of pixels with one tap's weights, all from shared memory, summed in registers: on the
// matrix units and without them. Both let an epilogue read the sums half of the tile's rows at a time.
#pragma once

#include "cuda/convert.cuh"
#include "cuda/ptx.cuh"
#include "cuda/vector.cuh"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_traits.cuh"

namespace segnet_ext::max_unpool2d_conv2d {

// sums += a * b for 16 rows, 8 columns and 32 bytes of what is summed over.
template <class Traits>
SEGNET_DEVICE void multiply_fragments(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  if constexpr (Traits::kMath == Math::kTensorCores75) {
    cuda::mma_m16n8k8(sums, {a[0], a[1]}, b0, typename Traits::scalar_t{});
    cuda::mma_m16n8k8(sums, {a[2], a[3]}, b1, typename Traits::scalar_t{});
  } else if constexpr (Traits::kIsTf32) {
    cuda::mma_m16n8k8_tf32(sums, a, {b0, b1});
  } else {
    cuda::mma_m16n8k16(sums, a, {b0, b1}, typename Traits::scalar_t{});
  }
}

template <class Traits>
class TensorCoreTile {
 public:
  using shared_t = typename Traits::shared_t;

  SEGNET_DEVICE TensorCoreTile()
      : lane_(static_cast<int>(threadIdx.x) % cuda::kWarpSize),
        warp_row_(static_cast<int>(threadIdx.x) / cuda::kWarpSize % 2),
        warp_n_(static_cast<int>(threadIdx.x) / cuda::kWarpSize / 2) {}

  // `map`: the tile's first pixel moved by the tap, [rows][map_cols][kPitch]; `weights`: [kBlockN][kWeightPitch].
  SEGNET_DEVICE void add_tap(const shared_t* map, int map_cols, const shared_t* weights) {
    // Lane l gives the address of row l % 8 of the 8x8 matrix l / 8. Those four are, of the map, pixels 0-7 and 8-15
    // with the first half of the step's channels, then with the second; of the weights, columns 0-7 with both halves,
    // then 8-15.
    const shared_t* map_lane =
        map + (warp_row_ * Traits::kWarpRows * map_cols + lane_ % 16) * Traits::kPitch + lane_ / 16 * Traits::kVec;
    const shared_t* weights_lane = weights +
                                   (warp_n_ * Traits::kWarpN + lane_ % 8 + lane_ / 16 * 8) * Traits::kWeightPitch +
                                   lane_ / 8 % 2 * Traits::kVec;
#pragma unroll
    for (int step = 0; step < Traits::kChunkVecs / 2; ++step) {
      // All fragments of the weights and one row's of the map at a time: the fewest registers.
      unsigned b[Traits::kWarpN / 16][4];
#pragma unroll
      for (int n = 0; n < Traits::kWarpN / 16; ++n) {
        cuda::ldmatrix_x4(b[n], weights_lane + n * 16 * Traits::kWeightPitch + step * 2 * Traits::kVec);
      }
#pragma unroll
      for (int row = 0; row < Traits::kWarpRows; ++row) {
        unsigned a[4];
        cuda::ldmatrix_x4(a, map_lane + row * map_cols * Traits::kPitch + step * 2 * Traits::kVec);
#pragma unroll
        for (int n = 0; n < Traits::kWarpN / 16; ++n) {
          multiply_fragments<Traits>(sums_[row][2 * n], a, b[n][0], b[n][1]);
          multiply_fragments<Traits>(sums_[row][2 * n + 1], a, b[n][2], b[n][3]);
        }
      }
    }
  }

  // After the last tap of a chunk.
  SEGNET_DEVICE void end_chunk() {}

  // Calls visit(pixel, column, Vector of two sums) for this thread's sums in rows [4 * half, 4 * half + 4) of the tile;
  // pixels are counted from the first of them.
  template <class Visit>
  SEGNET_DEVICE void for_each_sum(int half, const Visit& visit) const {
    if (warp_row_ != half) {
      return;
    }
#pragma unroll
    for (int row = 0; row < Traits::kWarpRows; ++row) {
#pragma unroll
      for (int n = 0; n < Traits::kWarpN / 8; ++n) {
        const float (&sums)[4] = sums_[row][n];
        const int pixel = row * Traits::kTileCols + lane_ / 4;
        const int column = warp_n_ * Traits::kWarpN + n * 8 + lane_ % 4 * 2;
        visit(pixel, column, cuda::Vector<float, 2>{{sums[0], sums[1]}});
        visit(pixel + 8, column, cuda::Vector<float, 2>{{sums[2], sums[3]}});
      }
    }
  }

 private:
  int lane_, warp_row_, warp_n_;
  float sums_[Traits::kWarpRows][Traits::kWarpN / 8][4] = {};
};

// A thread sums 8 pixels of a row, every second one, x two vectors of channels, half a block apart: so that the
// addresses of a warp's loads fall into different banks. Floats are summed chunk by chunk: rounding errors grow with
// the length of a sum, and one over hundreds of channels and all taps would have several times those of cuDNN's.
template <class Traits>
class MultiplyAddTile {
 public:
  using shared_t = typename Traits::shared_t;
  static constexpr int kVec = Traits::kVec;

  SEGNET_DEVICE MultiplyAddTile()
      : column_(static_cast<int>(threadIdx.x) % 8 * kVec),
        row_(static_cast<int>(threadIdx.x) / 16),
        col_(static_cast<int>(threadIdx.x) / 8 % 2) {}

  SEGNET_DEVICE void add_tap(const shared_t* map, int map_cols, const shared_t* weights) {
    const shared_t* pixels = map + (row_ * map_cols + col_) * Traits::kPitch;
#pragma unroll 1
    for (int vec = 0; vec < Traits::kChunkVecs; ++vec) {
      cuda::Vector<shared_t, kVec> values[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        values[i] = cuda::load_vector<kVec>(pixels + 2 * i * Traits::kPitch + vec * kVec);
      }
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const auto weight = cuda::load_vector<kVec>(weights + (vec * kVec + c) * Traits::kWeightPitch + column_ +
                                                      side * (Traits::kBlockN / 2));
#pragma unroll
          for (int i = 0; i < 8; ++i) {
#pragma unroll
            for (int k = 0; k < kVec; ++k) {
              sums_[i][side][k] += values[i][c] * weight[k];
            }
          }
        }
      }
    }
  }

  SEGNET_DEVICE void end_chunk() {
    if constexpr (kTotals) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
#pragma unroll
        for (int k = 0; k < kVec; ++k) {
          totals_[i / 2][i % 2][k] += sums_[i / 2][i % 2][k];
        }
        sums_[i / 2][i % 2] = {};
      }
    }
  }

  template <class Visit>
  SEGNET_DEVICE void for_each_sum(int half, const Visit& visit) const {
    if (row_ / Traits::kWarpRows != half) {
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int pixel = row_ % Traits::kWarpRows * Traits::kTileCols + col_ + 2 * i;
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        visit(pixel, column_ + side * (Traits::kBlockN / 2), kTotals ? totals_[i][side] : sums_[i][side]);
      }
    }
  }

 private:
  static constexpr bool kTotals = std::is_same_v<typename Traits::scalar_t, float>;

  int column_, row_, col_;
  cuda::Vector<shared_t, kVec> sums_[8][2] = {}, totals_[8][2] = {};
};

template <class Traits>
using ProductTile = std::conditional_t<Traits::kIsTensorCore, TensorCoreTile<Traits>, MultiplyAddTile<Traits>>;

}  // namespace segnet_ext::max_unpool2d_conv2d
