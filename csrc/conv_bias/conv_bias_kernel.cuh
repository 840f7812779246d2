// CUDA kernels of a convolution's bias over channels_last maps, and how they are launched. Both touch every byte once.
#pragma once

#include "common/merge.cuh"
#include "common/tiling.cuh"
#include "conv_bias/conv_bias_launch.h"
#include "cuda/dispatch.h"
#include "segnet_ext/elementwise.h"

namespace segnet_ext::conv_bias {

constexpr cuda::ItemsPerThread kPixelsPerThread{1, 16}, kSummedPixelsPerThread{4, 64};
constexpr int kLoads = 4;  // vectors of 16 or 32 bytes that a thread has under way

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) add_kernel(cuda::Tiled<AddParams> params) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kChannels = cuda::kPixelChannels<scalar_t, kWhole>;
  const AddParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  cuda::Vector<scalar_t, kChannels> bias{};
  if (p.bias != nullptr) {
    bias = group.load(static_cast<const scalar_t*>(p.bias) + place.channel);
  }
  const auto* map = static_cast<const scalar_t*>(p.map) + place.channel;
  auto* result = static_cast<scalar_t*>(p.result) + place.channel;
  cuda::walk_items<kLoads>(
      place, params.tiling.rows, [&](int64_t pixel) { return group.load(map + pixel * p.channels); },
      [&](int64_t pixel, const auto& x) {
        cuda::Vector<scalar_t, kChannels> y;
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          const acc_t sum = cuda::to_acc(x[i]) + cuda::to_acc(bias[i]);
          y[i] = cuda::from_acc<scalar_t>(p.relu ? relu(sum) : sum);
        }
        group.store(result + pixel * p.channels, y);
      });
}

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) grad_kernel(cuda::Tiled<GradParams> params) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kChannels = cuda::kPixelChannels<scalar_t, kWhole>;
  SEGNET_DYNAMIC_SHARED(shared);
  const GradParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.channels - place.channel);
  const auto* grad_output = static_cast<const scalar_t*>(p.grad_output) + place.channel;
  acc_t sums[kChannels] = {};
  if (group.exists()) {
    cuda::walk_items<kLoads>(
        place, params.tiling.rows, [&](int64_t pixel) { return group.load(grad_output + pixel * p.channels); },
        [&](int64_t, const auto& grad) {
#pragma unroll
          for (int i = 0; i < kChannels; ++i) {
            sums[i] += cuda::to_acc(grad[i]);
          }
        });
  }
  cuda::reduce_rows(sums, place.row, params.tiling.rows, reinterpret_cast<acc_t*>(shared), [&](const auto& other) {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      sums[i] += other(i);
    }
  });
  if (place.row == 0 && group.exists()) {
    cuda::Vector<acc_t, kChannels> sum;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      sum[i] = sums[i];
    }
    group.store(static_cast<acc_t*>(p.partial) + (blockIdx.x / params.tiling.tiles) * p.channels + place.channel, sum);
  }
}

template <class scalar_t>
__global__ void __launch_bounds__(cuda::kMergeThreads) merge_grad_kernel(GradParams p) {
  using acc_t = acc_type<scalar_t>;
  SEGNET_DYNAMIC_SHARED(shared);
  const cuda::MergePlace place(p.parts);
  acc_t sums[1] = {};
  if (place.channel < p.channels) {
    cuda::walk_items<cuda::kMergeLoads>(
        place, cuda::kMergeRows,
        [&](int64_t part) { return static_cast<const acc_t*>(p.partial)[part * p.channels + place.channel]; },
        [&](int64_t, acc_t sum) { sums[0] += sum; });
  }
  cuda::reduce_rows(sums, place.row, cuda::kMergeRows, reinterpret_cast<acc_t*>(shared),
                    [&](const auto& other) { sums[0] += other(0); });
  if (place.row == 0 && place.channel < p.channels) {
    static_cast<scalar_t*>(p.grad_bias)[place.channel] = cuda::from_acc<scalar_t>(sums[0]);
  }
}

void launch_add(const cuda::Launcher& launch, DType dtype, const AddParams& p, int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    cuda::call_for_bool(cuda::fits_vectors<scalar_t>(p.channels, {p.map, p.result, p.bias}), [&](auto whole) {
      constexpr int kChannels = cuda::kPixelChannels<scalar_t, whole>;
      const cuda::Tiling tiling = cuda::make_tiling(p.pixels, p.channels, kChannels, kPixelsPerThread, threads_to_fill);
      launch(add_kernel<scalar_t, whole>, tiling.config(), cuda::Tiled<AddParams>{p, tiling});
    });
  });
}

template <class scalar_t, bool kWhole>
cuda::Tiling sums_tiling(int64_t pixels, int64_t channels, int64_t threads_to_fill) {
  return cuda::make_tiling(pixels, channels, cuda::kPixelChannels<scalar_t, kWhole>, kSummedPixelsPerThread,
                           threads_to_fill);
}

int64_t grad_parts(DType dtype, int64_t pixels, int64_t channels, int64_t threads_to_fill) {
  return cuda::most_parts(dtype, [&](auto element, auto whole) {
    return sums_tiling<decltype(element), whole>(pixels, channels, threads_to_fill);
  });
}

void launch_grad(const cuda::Launcher& launch, DType dtype, const GradParams& params, int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    using acc_t = acc_type<scalar_t>;
    GradParams p = params;
    cuda::call_for_bool(cuda::fits_vectors<scalar_t>(p.channels, {p.grad_output, p.partial}), [&](auto whole) {
      constexpr int kChannels = cuda::kPixelChannels<scalar_t, whole>;
      const cuda::Tiling tiling = sums_tiling<scalar_t, whole>(p.pixels, p.channels, threads_to_fill);
      p.parts = tiling.blocks;
      launch(grad_kernel<scalar_t, whole>,
             tiling.config(cuda::reduce_bytes<acc_t, kChannels>(tiling.groups * tiling.rows)),
             cuda::Tiled<GradParams>{p, tiling});
      launch(merge_grad_kernel<scalar_t>, cuda::merge_config(p.channels, cuda::reduce_bytes<acc_t, 1>(1)), p);
    });
  });
}

}  // namespace segnet_ext::conv_bias
