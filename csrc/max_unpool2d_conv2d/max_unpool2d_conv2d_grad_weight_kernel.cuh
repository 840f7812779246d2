// The gradient of the weights, sums over pixels of grad_output x the unpooled map moved by each tap: split over blocks
// by pixels, the parts added in order.
#pragma once

#include "cuda/convert.cuh"
#include "cuda/launch.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_multiply.cuh"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_stage.cuh"

namespace segnet_ext::max_unpool2d_conv2d {

struct GradWeightParams {
  Shape shape;
  const void* grad_output;  // [N, H, W, K]
  const void* input;        // [N, OH, OW, C]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  void* partial;            // [splits, k * k, K, C] of acc_t
  int k_blocks, c_blocks, tap_groups, splits;
  int tile_rows, tile_cols;  // the grid of tiles over an image
  int64_t tiles;             // of all images
  bool grad_vectors, input_vectors;
};

// Sums on the matrix units; a warp has 32 output x 32 input channels x kTaps.
template <class Traits>
class TensorCoreSums {
 public:
  using shared_t = typename Traits::shared_t;

  SEGNET_DEVICE TensorCoreSums()
      : lane_(static_cast<int>(threadIdx.x) % cuda::kWarpSize),
        k_(static_cast<int>(threadIdx.x) / cuda::kWarpSize % 2 * 32),
        c_(static_cast<int>(threadIdx.x) / cuda::kWarpSize / 2 * 32) {}

  // `grad` and `map` point to one row of pixels.
  SEGNET_DEVICE void add_row(const shared_t* grad, const shared_t* map) {
    constexpr int kStep = 32 / sizeof(shared_t);  // pixels
#pragma unroll
    for (int pixel = 0; pixel < Traits::kTileCols; pixel += kStep) {
      unsigned a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        load_k(a[m], grad + pixel * Traits::kPitchK + k_ + m * 16);
      }
#pragma unroll
      for (int tap = 0; tap < Traits::kTaps; ++tap) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          unsigned b[4];
          load_c(b, map + (pixel + tap) * Traits::kPitchC + c_ + n * 16);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            multiply_fragments<Traits>(sums_[tap][m][2 * n], a[m], b[0], b[1]);
            multiply_fragments<Traits>(sums_[tap][m][2 * n + 1], a[m], b[2], b[3]);
          }
        }
      }
    }
  }

  // visit(tap, k, c, sum)
  template <class Visit>
  SEGNET_DEVICE void for_each_sum(const Visit& visit) const {
#pragma unroll
    for (int tap = 0; tap < Traits::kTaps; ++tap) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            visit(tap, k_ + m * 16 + lane_ / 4 + i / 2 * 8, c_ + n * 8 + lane_ % 4 * 2 + i % 2, sums_[tap][m][n][i]);
          }
        }
      }
    }
  }

 private:
  // Both factors lie in memory pixel by pixel, while fragments run along the pixels. 16-bit matrices are turned by the
  // load itself: lane l gives the address of row l % 8, a pixel, of matrix l / 8. 32-bit values are fetched one by one.
  SEGNET_DEVICE void load_k(unsigned (&a)[4], const shared_t* from) const {
    if constexpr (sizeof(shared_t) == 2) {
      cuda::ldmatrix_x4_trans(a, from + (lane_ % 8 + lane_ / 16 * 8) * Traits::kPitchK + lane_ / 8 % 2 * 8);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = bits_of(from[(lane_ % 4 + i / 2 * 4) * Traits::kPitchK + lane_ / 4 + i % 2 * 8]);
      }
    }
  }
  SEGNET_DEVICE void load_c(unsigned (&b)[4], const shared_t* from) const {
    if constexpr (sizeof(shared_t) == 2) {
      cuda::ldmatrix_x4_trans(b, from + (lane_ % 8 + lane_ / 8 % 2 * 8) * Traits::kPitchC + lane_ / 16 * 8);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        b[i] = bits_of(from[(lane_ % 4 + i % 2 * 4) * Traits::kPitchC + lane_ / 4 + i / 2 * 8]);
      }
    }
  }
  SEGNET_DEVICE static unsigned bits_of(shared_t value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
  }

  int lane_, k_, c_;
  float sums_[Traits::kTaps][2][4][4] = {};
};

// Sums without matrix units; a thread has two vectors of output x 4 input channels x kTaps.
template <class Traits>
class MultiplyAddSums {
 public:
  using shared_t = typename Traits::shared_t;
  static constexpr int kVec = Traits::kVec;

  SEGNET_DEVICE MultiplyAddSums()
      : k_(static_cast<int>(threadIdx.x) % 8 * kVec), c_(static_cast<int>(threadIdx.x) / 8 * 4) {}

  SEGNET_DEVICE void add_row(const shared_t* grad, const shared_t* map) {
#pragma unroll 1
    for (int pixel = 0; pixel < Traits::kTileCols; ++pixel) {
      cuda::Vector<shared_t, kVec> grads[2];
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        grads[side] = cuda::load_vector<kVec>(grad + pixel * Traits::kPitchK + k_ + side * (Traits::kBlockK / 2));
      }
#pragma unroll
      for (int tap = 0; tap < Traits::kTaps; ++tap) {
        const auto values = cuda::load_vector<4>(map + (pixel + tap) * Traits::kPitchC + c_);
#pragma unroll
        for (int side = 0; side < 2; ++side) {
#pragma unroll
          for (int k = 0; k < kVec; ++k) {
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              sums_[tap][side][k][c] += grads[side][k] * values[c];
            }
          }
        }
      }
    }
  }

  template <class Visit>
  SEGNET_DEVICE void for_each_sum(const Visit& visit) const {
#pragma unroll
    for (int tap = 0; tap < Traits::kTaps; ++tap) {
#pragma unroll
      for (int side = 0; side < 2; ++side) {
#pragma unroll
        for (int k = 0; k < kVec; ++k) {
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            visit(tap, k_ + side * (Traits::kBlockK / 2) + k, c_ + c, sums_[tap][side][k][c]);
          }
        }
      }
    }
  }

 private:
  int k_, c_;
  shared_t sums_[Traits::kTaps][2][kVec][4] = {};
};

template <class Traits>
SEGNET_DEVICE void grad_weight_block(const GradWeightParams& p) {
  using acc_t = typename Traits::acc_t;
  using shared_t = typename Traits::shared_t;
  using Sums = std::conditional_t<Traits::kIsTensorCore, TensorCoreSums<Traits>, MultiplyAddSums<Traits>>;

  SEGNET_DYNAMIC_SHARED(shared);
  shared_t* const grad_tile = reinterpret_cast<shared_t*>(shared);
  shared_t* const map_tile = grad_tile + Traits::kGradElements;

  int rest = static_cast<int>(blockIdx.x);
  const int first_k = rest % p.k_blocks * Traits::kBlockK;
  rest /= p.k_blocks;
  const int first_c = rest % p.c_blocks * Traits::kBlockC;
  rest /= p.c_blocks;
  const int group = rest % p.tap_groups, split = rest / p.tap_groups;

  const int kernel_size = static_cast<int>(p.shape.kernel_size), radius = kernel_size / 2;
  const int groups_in_row = p.tap_groups / kernel_size;
  const int tap_row = group / groups_in_row, tap_col = group % groups_in_row * Traits::kTaps;
  const int thread = static_cast<int>(threadIdx.x);

  Sums sums;
  const int64_t end = p.tiles * (split + 1) / p.splits;
  for (int64_t tile = p.tiles * split / p.splits; tile < end; ++tile) {
    const int64_t image = tile / (p.tile_rows * p.tile_cols);
    const int in_image = static_cast<int>(tile % (p.tile_rows * p.tile_cols));
    const int row = in_image / p.tile_cols * Traits::kTileRows, col = in_image % p.tile_cols * Traits::kTileCols;
    const DenseMap<Traits, Traits::kBlockK / Traits::kVec, Traits::kPitchK> grads(
        p.grad_output, p.shape.height, p.shape.width, p.shape.out_channels, p.grad_vectors,
        Rectangle{image, row, col, Traits::kTileRows, Traits::kTileCols});
    const UnpooledMap<Traits, Traits::kBlockC / Traits::kVec, Traits::kPitchC> map(
        p.input, p.codes, p.shape, p.input_vectors,
        Rectangle{image, row + tap_row - radius, col + tap_col - radius, Traits::kTileRows, Traits::kMapCols});
    __syncthreads();  // the tiles of the round before are done with
    for (int item = thread; item < grads.items(); item += Traits::kThreads) {
      grads.store(item, grads.load(item, first_k), grad_tile);
    }
    for (int item = thread; item < map.items(); item += Traits::kThreads) {
      map.store(item, map.load(item, first_c), map_tile);
    }
    __syncthreads();
#pragma unroll 1
    for (int r = 0; r < Traits::kTileRows; ++r) {
      sums.add_row(grad_tile + r * Traits::kTileCols * Traits::kPitchK,
                   map_tile + r * Traits::kMapCols * Traits::kPitchC);
    }
  }

  sums.for_each_sum([&](int tap, int k, int c, acc_t sum) {
    if (tap_col + tap < kernel_size && first_k + k < p.shape.out_channels && first_c + c < p.shape.in_channels) {
      const int64_t index = (int64_t(split) * p.shape.taps() + tap_row * kernel_size + tap_col + tap);
      static_cast<acc_t*>(p.partial)[(index * p.shape.out_channels + first_k + k) * p.shape.in_channels + first_c + c] =
          sum;
    }
  });
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads) grad_weight_kernel(const GradWeightParams p) {
  if constexpr (cuda::compiled_for<Traits::kMinArch, Traits::kMaxArch>()) {
    grad_weight_block<Traits>(p);
  } else {
    cuda::trap();
  }
}

struct MergeParams {
  Shape shape;
  int splits;
  const void* partial;  // [splits, k * k, K, C] of acc_t
  void* grad_weight;    // [K, C, k, k] of scalar_t
};

// A thread adds up the parts of one pair of channels and one tap.
template <class scalar_t>
__global__ void __launch_bounds__(cuda::kElementThreads) merge_grad_weight_kernel(const MergeParams p) {
  using acc_t = acc_type<scalar_t>;
  const int64_t pairs = p.shape.out_channels * p.shape.in_channels, taps = p.shape.taps();
  const int64_t element = cuda::element_index();
  if (element < pairs * taps) {
    const acc_t* partial = static_cast<const acc_t*>(p.partial) + element;
    acc_t sum{};
#pragma unroll 8
    for (int split = 0; split < p.splits; ++split) {
      sum += partial[split * taps * pairs];
    }
    static_cast<scalar_t*>(p.grad_weight)[element % pairs * taps + element / pairs] = cuda::from_acc<scalar_t>(sum);
  }
}

}  // namespace segnet_ext::max_unpool2d_conv2d
