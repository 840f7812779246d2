// What the CUDA kernels of max_unpool2d_conv2d are specialised by, and how their tiles lie in shared memory.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/vector.cuh"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_launch.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::max_unpool2d_conv2d {

template <class scalar_t_, Math kMath_>
struct MathTraits {
  using scalar_t = scalar_t_;  // in device memory
  using acc_t = acc_type<scalar_t>;
  static constexpr Math kMath = kMath_;
  static constexpr bool kIsTensorCore = kMath != Math::kMultiplyAdd;
  static constexpr bool kIsTf32 = kIsTensorCore && std::is_same_v<scalar_t, float>;
  // In shared memory.
  using shared_t = std::conditional_t<kIsTensorCore, scalar_t, acc_t>;
  // The architectures that run this; for all others the kernel compiles to a trap.
  static constexpr int kMinArch = kMath == Math::kTensorCores ? 80 : 75;
  static constexpr int kMaxArch =
      kMath == Math::kTensorCores75 || (!kIsTensorCore && std::is_same_v<scalar_t, bfloat16>) ? 80 : 10000;
  static constexpr int kVec = cuda::kVectorBytes / sizeof(shared_t);  // channels moved at a time
};

// The convolution (forward and grad_input): a block computes a tile of kTileRows x kTileCols pixels of kBlockN
// channels, going through the channels of the other side kChunk at a time and, inside a chunk, through the taps.
template <class scalar_t, Math kMath, int kBlockN_>
struct ConvTraits : MathTraits<scalar_t, kMath> {
  using Base = MathTraits<scalar_t, kMath>;
  using shared_t = typename Base::shared_t;

  // Rows of 16 pixels, since that is what one matrix instruction multiplies.
  static constexpr int kTileRows = 8, kTileCols = 16;
  static constexpr int kBlockN = kBlockN_;
  static constexpr bool kIsWide = kBlockN > 64;
  // A warp computes 4 rows of 16 pixels x 32 channels: 64 accumulators a thread, 6 loads of fragments for 16 products.
  // Without matrix units a thread computes 8 pixels x two vectors of channels: 64 accumulators (32 in float64).
  static constexpr int kWarpRows = 4, kWarpN = 32;
  static constexpr int kThreads = Base::kIsTensorCore ? 2 * (kBlockN / kWarpN) * cuda::kWarpSize : 128;
  static_assert(Base::kIsTensorCore || kBlockN == 16 * Base::kVec);
  // Blocks to a multiprocessor that registers are left for. On tensor cores, as many of a 3x3 kernel as 164 KiB of
  // shared memory have room for; where there is less, fewer run, with registers to spare.
  static constexpr int kMinBlocks = kMath == Math::kTensorCores75 ? 1 : !Base::kIsTensorCore || kIsWide ? 2 : 3;

  // 64 bytes of channels, two steps of the matrix units. 16 bytes of padding a pixel let 8 neighbours (a row of
  // matrices to load) fall into all 32 banks; unlike with an XOR swizzle a tap is then one constant added to the
  // address.
  static constexpr int kChunkVecs = 4;
  static constexpr int kChunk = kChunkVecs * Base::kVec;
  static constexpr int kPitch = kChunk + Base::kVec;

  // One tap's weights of a chunk: [kBlockN][kChunk] for the matrix units, whose fragments run along the channels that
  // are summed over; [kChunk][kBlockN] otherwise. One buffer is read while two are on their way.
  static constexpr int kWeightRows = Base::kIsTensorCore ? kBlockN : kChunk;
  static constexpr int kWeightCols = Base::kIsTensorCore ? kChunk : kBlockN;
  static constexpr int kWeightPitch = kWeightCols + Base::kVec;
  static constexpr int kWeightStages = 3;
  static constexpr int kWeightElements = kBlockN * kChunk;
  // Where the vectors of packed weights go; in memory they lie in the order in which threads copy them.
  using WeightPlace = cuda::BankFreeRows<kWeightCols / Base::kVec, kWeightPitch / Base::kVec>;

  // The result passes through shared memory, half of the tile's rows at a time, to be written in whole vectors.
  static constexpr int kOutVec = cuda::kVectorBytes / sizeof(scalar_t);
  static constexpr int kOutPitch = kBlockN + kOutVec;

  SEGNET_HOST_DEVICE static constexpr int halo_rows(int kernel_size) { return kTileRows + kernel_size - 1; }
  SEGNET_HOST_DEVICE static constexpr int halo_cols(int kernel_size) { return kTileCols + kernel_size - 1; }
  SEGNET_HOST_DEVICE static constexpr int64_t map_elements(int kernel_size) {
    return int64_t(halo_rows(kernel_size)) * halo_cols(kernel_size) * kPitch;
  }
  SEGNET_HOST_DEVICE static constexpr int64_t shared_bytes(int64_t kernel_size) {
    if (kernel_size > 255) {
      return INT64_MAX;
    }
    const int64_t main =
        (2 * map_elements(static_cast<int>(kernel_size)) + kWeightStages * kWeightRows * kWeightPitch) *
        static_cast<int64_t>(sizeof(shared_t));
    const int64_t out = kWarpRows * kTileCols * kOutPitch * static_cast<int64_t>(sizeof(scalar_t));
    return main > out ? main : out;
  }
};

// grad_weight: a block sums kBlockK output channels x kBlockC input channels x up to kTaps neighbouring taps of a
// kernel row over its share of the pixels, kTileRows x kTileCols of them at a time.
template <class scalar_t, Math kMath>
struct GradWeightTraits : MathTraits<scalar_t, kMath> {
  using Base = MathTraits<scalar_t, kMath>;
  using shared_t = typename Base::shared_t;

  static constexpr int kThreads = 128;
  static constexpr int kTaps = 3;  // the tile of the unpooled map and its fragments of grad_output serve three taps
  // Without matrix units a thread sums kThreadK x 4 x kTaps products.
  static constexpr int kThreadK = sizeof(shared_t) == 8 ? 4 : 8;
  static constexpr int kBlockK = Base::kIsTensorCore ? 64 : 8 * kThreadK;
  static constexpr int kBlockC = 64;
  static constexpr int kTileRows = sizeof(shared_t) == 2 ? 8 : sizeof(shared_t) == 4 ? 4 : 2;
  static constexpr int kTileCols = 16;
  static constexpr int kMapCols = kTileCols + kTaps - 1;
  // 8 elements of padding: neighbouring pixels fall into other banks for the transposed loads of 16-bit matrices and
  // for the plain loads of 32-bit ones.
  static constexpr int kPitchK = kBlockK + 8, kPitchC = kBlockC + 8;

  static constexpr int kGradElements = kTileRows * kTileCols * kPitchK;
  static constexpr int kMapElements = kTileRows * kMapCols * kPitchC;
  static constexpr int64_t kSharedBytes = (kGradElements + kMapElements) * static_cast<int64_t>(sizeof(shared_t));
};

}  // namespace segnet_ext::max_unpool2d_conv2d
