// CUDA kernels for what BatchNorm knows of a channel: batch statistics, and the running ones.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "common/merge.cuh"
#include "common/tiling.cuh"
#include "cuda/dispatch.h"
#include "segnet_ext/elementwise.h"

namespace segnet_ext::bn_relu_max_pool2d {

// ---- mean and variance of each channel, in two stages -----------------------------------------------------------

// Loads of 16 or 32 bytes that a thread has under way, 128 bytes in all, and blocks that a multiprocessor is to hold.
template <class scalar_t>
constexpr int kStatsLoads = sizeof(scalar_t) == 8 ? 4 : 8;
constexpr int kStatsBlocks = 2;

// A thread's pixels. Their squares are summed about the mean of the first kStatsLoads. How far that lies off is part of
// the sum of squares: one value alone among n equals costs a factor of n / kStatsLoads^2 of the precision, not of n.
constexpr cuda::ItemsPerThread kStatsPixelsPerThread{4, 256};

template <class acc_t>
SEGNET_DEVICE acc_t finite_or_zero(acc_t x) {
  return x - x == acc_t(0) ? x : acc_t(0);
}

// What rounding took from sum = a + b (Knuth's two-sum); nothing where the sum is infinite.
template <class acc_t>
SEGNET_DEVICE acc_t sum_rest(acc_t a, acc_t b, acc_t sum) {
  const acc_t added = sum - a;
  return finite_or_zero((a - (sum - added)) + (b - added));
}

// Moments of several channels of a thread, and over how many values: what reduce_rows merges. The sums keep their
// rounding errors apart: a mean near zero is the difference of the origin and of a sum of its size.
template <class acc_t, int kChannels>
struct MomentsOf {
  static constexpr int kSum = 0, kRest = kChannels, kSquares = 2 * kChannels, kCount = 3 * kChannels;
  static constexpr int kSize = kCount + 1;
  acc_t values[kSize];

  // other(i) is value i of other moments.
  template <class Other>
  SEGNET_DEVICE void merge(const Other& other) {
    acc_t(&a)[kSize] = values;
    const acc_t count = other(kCount);
    if (count > acc_t(0)) {
      const typename Moments<acc_t>::Counts counts(a[kCount], count);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        Moments<acc_t> moments{a[kSum + i], a[kSquares + i]};
        const acc_t sum = other(kSum + i);
        moments.merge(counts, sum, other(kSquares + i));
        a[kRest + i] += other(kRest + i) + sum_rest(a[kSum + i], sum, moments.sum);
        a[kSum + i] = moments.sum;
        a[kSquares + i] = moments.squares;
      }
      a[kCount] += count;
    }
  }
};

// All sums are of x - origin, where the origin is the channel's first value in the map: means of parts then differ by
// about a deviation and not by rounding errors of a large mean.
template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads, kStatsBlocks)
    stats_kernel(cuda::Tiled<TwoStageStatsParams> params) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kChannels = cuda::kPixelChannels<scalar_t, kWhole>, kLoads = kStatsLoads<scalar_t>;
  SEGNET_DYNAMIC_SHARED(shared);
  const TwoStageStatsParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.channels - place.channel);
  const auto* input = static_cast<const scalar_t*>(p.input) + place.channel;

  using Moments = MomentsOf<acc_t, kChannels>;
  Moments moments{};
  if (group.exists() && place.item < place.end) {
    const auto load = [&](int64_t pixel) { return group.load(input + pixel * p.channels); };
    acc_t center[kChannels] = {}, sum[kChannels] = {}, squares[kChannels] = {};
    int count = 0;
    cuda::TilePlace<kChannels> firsts = place;
    const int64_t end = place.item + kLoads * params.tiling.rows;
    firsts.end = end < place.end ? end : place.end;
    cuda::walk_items<kLoads>(firsts, params.tiling.rows, load, [&](int64_t, const auto& x) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        center[i] += cuda::to_acc(x[i]);
      }
      ++count;
    });
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      center[i] = finite_or_zero(center[i] * (acc_t(1) / static_cast<acc_t>(count)));
    }
    count = 0;
    cuda::walk_items<kLoads>(place, params.tiling.rows, load, [&](int64_t, const auto& x) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        const acc_t deviation = cuda::to_acc(x[i]) - center[i];
        sum[i] += deviation;
        squares[i] += deviation * deviation;
      }
      ++count;
    });
    const auto values = static_cast<acc_t>(count);
    const acc_t inverse = acc_t(1) / values;
    const auto origin = group.load(input);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      moments.values[Moments::kSum + i] = sum[i] + values * (center[i] - finite_or_zero(cuda::to_acc(origin[i])));
      moments.values[Moments::kSquares + i] = squares[i] - sum[i] * (sum[i] * inverse);
    }
    moments.values[Moments::kCount] = values;
  }
  cuda::reduce_rows(moments.values, place.row, params.tiling.rows, reinterpret_cast<acc_t*>(shared),
                    [&](const auto& other) { moments.merge(other); });
  if (place.row == 0 && group.exists()) {
    cuda::Vector<acc_t, kChannels> sum, rest, squares;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      sum[i] = moments.values[Moments::kSum + i];
      rest[i] = moments.values[Moments::kRest + i];
      squares[i] = moments.values[Moments::kSquares + i];
    }
    const int64_t to = (blockIdx.x / params.tiling.tiles) * p.channels + place.channel;
    group.store(static_cast<acc_t*>(p.partial_sum) + to, sum);
    group.store(static_cast<acc_t*>(p.partial_rest) + to, rest);
    group.store(static_cast<acc_t*>(p.partial_squares) + to, squares);
  }
}

struct MergeStatsParams {
  TwoStageStatsParams stats;
  int64_t pixels_per_part;
};

template <class scalar_t>
__global__ void __launch_bounds__(cuda::kMergeThreads) merge_stats_kernel(MergeStatsParams params) {
  using acc_t = acc_type<scalar_t>;
  SEGNET_DYNAMIC_SHARED(shared);
  const TwoStageStatsParams& p = params.stats;
  const cuda::MergePlace place(p.parts);
  const int64_t c = place.channel;

  using Moments = MomentsOf<acc_t, 1>;
  Moments moments{};
  if (c < p.channels) {
    cuda::walk_items<cuda::kMergeLoads>(
        place, cuda::kMergeRows,
        [&](int64_t part) {
          const int64_t left = p.pixels - part * params.pixels_per_part, from = part * p.channels + c;
          Moments other;
          other.values[Moments::kSum] = static_cast<const acc_t*>(p.partial_sum)[from];
          other.values[Moments::kRest] = static_cast<const acc_t*>(p.partial_rest)[from];
          other.values[Moments::kSquares] = static_cast<const acc_t*>(p.partial_squares)[from];
          other.values[Moments::kCount] =
              static_cast<acc_t>(left < params.pixels_per_part ? left : params.pixels_per_part);
          return other;
        },
        [&](int64_t, const Moments& other) { moments.merge([&](int i) { return other.values[i]; }); });
  }
  cuda::reduce_rows(moments.values, place.row, cuda::kMergeRows, reinterpret_cast<acc_t*>(shared),
                    [&](const auto& other) { moments.merge(other); });
  if (place.row == 0 && c < p.channels) {
    const auto pixels = static_cast<double>(p.pixels);
    const double origin = finite_or_zero(cuda::to_acc(static_cast<const scalar_t*>(p.input)[c]));
    const double sum = static_cast<double>(moments.values[Moments::kSum]) + moments.values[Moments::kRest];
    static_cast<acc_t*>(p.mean)[c] = static_cast<acc_t>(origin + sum / pixels);
    static_cast<acc_t*>(p.var)[c] = static_cast<acc_t>(moments.values[Moments::kSquares] / pixels);
  }
}

template <class scalar_t, bool kWhole>
cuda::Tiling stats_tiling(int64_t pixels, int64_t channels, int64_t threads_to_fill) {
  return cuda::make_tiling(pixels, channels, cuda::kPixelChannels<scalar_t, kWhole>, kStatsPixelsPerThread,
                           threads_to_fill / cuda::kSumShare);
}

int64_t stats_parts(DType dtype, int64_t pixels, int64_t channels, int64_t threads_to_fill) {
  return cuda::most_parts(dtype, [&](auto element, auto whole) {
    return stats_tiling<decltype(element), whole>(pixels, channels, threads_to_fill);
  });
}

void launch_stats(const cuda::Launcher& launch, DType dtype, const TwoStageStatsParams& params,
                  int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    using acc_t = acc_type<scalar_t>;
    TwoStageStatsParams p = params;
    const bool fits =
        cuda::fits_vectors<scalar_t>(p.channels, {p.input, p.partial_sum, p.partial_rest, p.partial_squares});
    cuda::call_for_bool(fits, [&](auto whole) {
      const cuda::Tiling tiling = stats_tiling<scalar_t, whole>(p.pixels, p.channels, threads_to_fill);
      p.parts = tiling.blocks;
      constexpr int kValues = MomentsOf<acc_t, cuda::kPixelChannels<scalar_t, whole>>::kSize;
      launch(stats_kernel<scalar_t, whole>,
             tiling.config(cuda::reduce_bytes<acc_t, kValues>(tiling.groups * tiling.rows)),
             cuda::Tiled<TwoStageStatsParams>{p, tiling});
      launch(merge_stats_kernel<scalar_t>,
             cuda::merge_config(p.channels, cuda::reduce_bytes<acc_t, MomentsOf<acc_t, 1>::kSize>(1)),
             MergeStatsParams{p, tiling.items_per_block});
    });
  });
}

// ---- running statistics -----------------------------------------------------------------------------------------

constexpr int kRunningThreads = 128;

template <class acc_t>
__global__ void __launch_bounds__(kRunningThreads) running_stats_kernel(RunningStatsParams p) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kRunningThreads + threadIdx.x;
  if (c < p.channels) {
    const acc_t momentum = static_cast<acc_t>(p.momentum);
    const auto move = [&](const void* running, acc_t batch, void* moved) {
      static_cast<acc_t*>(moved)[c] = lerp(static_cast<const acc_t*>(running)[c], batch, momentum);
    };
    move(p.running_mean, static_cast<const acc_t*>(p.mean)[c], p.moved_mean);
    move(p.running_var, static_cast<const acc_t*>(p.var)[c] * static_cast<acc_t>(p.unbiased), p.moved_var);
  }
}

void launch_running_stats(const cuda::Launcher& launch, DType dtype, const RunningStatsParams& p) {
  const cuda::LaunchConfig config{dim3(cuda::grid_size(cuda::ceil_div(p.channels, kRunningThreads))),
                                  dim3(kRunningThreads)};
  launch(dtype == DType::kDouble ? running_stats_kernel<double> : running_stats_kernel<float>, config, p);
}

}  // namespace segnet_ext::bn_relu_max_pool2d
