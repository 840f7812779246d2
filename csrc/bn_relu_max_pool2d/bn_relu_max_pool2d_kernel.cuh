// CUDA kernels of bn_relu_max_pool2d over channels_last maps, and how they are launched. Forward touches every byte
// once. Backward reads the maps twice, for the sums over winners and for the input gradient made with them; where the
// output says all that the sums need, the first pass reads that instead of the input, a quarter as much.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_grads.cuh"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_stats.cuh"
#include "common/pool.cuh"

namespace segnet_ext::bn_relu_max_pool2d {

// Outputs whose sums a thread has under way.
constexpr int kOutputLoads = 4;

// BatchNormInverse of a thread's channels, if it is good for all of them that there are.
template <class T, int kChannels>
struct Inverse {
  cuda::Vector<T, kChannels> origin, slope;
  bool good = true;

  template <bool kWhole>
  SEGNET_DEVICE Inverse(const NormParams& norm, const Transform<T, kChannels>& transform,
                        const cuda::Vector<T, kChannels>& mean, const cuda::ChannelGroup<kChannels, kWhole>& group,
                        int64_t channel) {
    const auto var = group.load(static_cast<const T*>(norm.var) + channel);
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const BatchNormAffine<T> affine{transform.scale[i], transform.shift[i]};
      const BatchNormInverse<T> inverse = batch_norm_inverse(mean[i], affine);
      origin[i] = inverse.origin;
      slope[i] = inverse.slope;
      good = good && (!group.has(i) || inverts(affine, inverse, var[i]));
    }
  }
  SEGNET_DEVICE T deviation(int i, T y) const { return BatchNormInverse<T>{origin[i], slope[i]}.deviation(y); }
};

// Blocks of backward that a multiprocessor is to hold. A thread needs about 80 registers for 4 floats a pixel and 120
// for twice as many channels (halfs) or bytes (doubles); either way its blocks can have over 40 KiB of loads under way,
// twice what it takes to keep the memory of the largest devices busy. Channels that are loaded one by one take more
// registers, for addresses.
template <class scalar_t, bool kWhole>
constexpr int kBackwardBlocks = !kWhole                 ? 1
                                : sizeof(scalar_t) == 4 ? 3
                                                        : 2;

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) forward_kernel(cuda::Tiled<NormedForwardParams> params) {
  constexpr int kChannels = cuda::kWindowChannels<scalar_t, kWhole>;
  const NormedForwardParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.shape.channels - place.channel);
  if (group.exists()) {
    cuda::pool_windows(p, params.tiling, place, group, static_cast<const scalar_t*>(p.input),
                       static_cast<scalar_t*>(p.output), load_transform<scalar_t>(p.norm, group, place.channel));
  }
}

// What a thread knows of one window: its pixels, the clipped codes, the gradient of its output.
template <class scalar_t, bool kWhole>
struct WindowGrad {
  using acc_t = acc_type<scalar_t>;
  static constexpr int kChannels = cuda::kWindowChannels<scalar_t, kWhole>;

  int64_t corner;  // offset of this thread's channels of the first pixel
  int rows, cols;
  unsigned codes;
  cuda::Vector<scalar_t, kChannels> grad_output, x[4];

  SEGNET_DEVICE WindowGrad(const NormedBackwardParams& p, const cuda::ChannelGroup<kChannels, kWhole>& group,
                           const cuda::Window& window, int64_t item, int64_t channel)
      : corner(window.corner(p.shape) + channel), rows(window.rows(p.shape)), cols(window.cols(p.shape)), x{} {
    const int64_t channels = p.shape.channels;
    grad_output = group.load(static_cast<const scalar_t*>(p.grad_output) + item * channels + channel);
    const uint8_t* bytes = p.codes + item * codes_bytes(channels) + channel / kCodesPerByte;
    codes = clip_codes(group.load_codes(bytes), rows, cols);
    const scalar_t* from = static_cast<const scalar_t*>(p.input) + corner;
    cuda::for_each_place(
        rows, cols, [&](int k, int row, int col) { x[k] = group.load(from + (row * p.shape.width + col) * channels); });
  }

  SEGNET_DEVICE unsigned code(int i) const { return codes >> 2 * i & 3; }
  SEGNET_DEVICE scalar_t winner(int i) const {
    const unsigned k = code(i);
    const scalar_t upper = k & 1 ? x[1][i] : x[0][i], lower = k & 1 ? x[3][i] : x[2][i];
    return k & 2 ? lower : upper;
  }
  // The gradient that reaches the winner.
  SEGNET_DEVICE acc_t grad(int i, const Transform<scalar_t, kChannels>& transform) const {
    return relu_grad(cuda::to_acc(grad_output[i]), transform(i, winner(i)));
  }
};

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads, kBackwardBlocks<scalar_t, kWhole>)
    backward_reduce_kernel(cuda::Tiled<NormedBackwardParams> params) {
  constexpr int kChannels = cuda::kWindowChannels<scalar_t, kWhole>;
  SEGNET_DYNAMIC_SHARED(shared);
  const NormedBackwardParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.shape.channels - place.channel);
  sum_grads<scalar_t>(params, place, group, shared, [&](const auto& transform, const auto& mean, const auto& add) {
    if constexpr (sizeof(scalar_t) == sizeof(acc_type<scalar_t>)) {
      const Inverse<scalar_t, kChannels> inverse(p.norm, transform, mean, group, place.channel);
      if (p.output != nullptr && inverse.good) {
        using Values = cuda::Vector<scalar_t, kChannels>;
        struct Outputs {
          Values grad, y;
        };
        const auto* grad_output = static_cast<const scalar_t*>(p.grad_output) + place.channel;
        const auto* output = static_cast<const scalar_t*>(p.output) + place.channel;
        cuda::walk_items<kWhole ? kOutputLoads : 1>(
            place, params.tiling.rows,
            [&](int64_t item) {
              const int64_t offset = item * p.shape.channels;
              return Outputs{group.load(grad_output + offset), group.load(output + offset)};
            },
            [&](int64_t, const Outputs& at) {
#pragma unroll
              for (int i = 0; i < kChannels; ++i) {
                add(i, relu_grad(at.grad[i], at.y[i]), inverse.deviation(i, at.y[i]));
              }
            });
        return;
      }
    }
    cuda::Window window(p.shape, place.item);
    for (int64_t item = place.item; item < place.end;
         item += params.tiling.rows, window.advance(p.shape, params.tiling.rows)) {
      const WindowGrad<scalar_t, kWhole> at(p, group, window, item, place.channel);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        add(i, at.grad(i, transform), cuda::to_acc(at.winner(i)) - mean[i]);
      }
    }
  });
}

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads, kBackwardBlocks<scalar_t, kWhole>)
    backward_input_kernel(cuda::Tiled<NormedBackwardParams> params) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kChannels = cuda::kWindowChannels<scalar_t, kWhole>;
  using Values = cuda::Vector<scalar_t, kChannels>;
  const NormedBackwardParams& p = params.op;
  const PoolShape& s = p.shape;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(s.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  const auto transform = load_transform<scalar_t>(p.norm, group, place.channel);
  cuda::Window window(s, place.item);
  for (int64_t item = place.item; item < place.end; item += params.tiling.rows, window.advance(s, params.tiling.rows)) {
    const WindowGrad<scalar_t, kWhole> at(p, group, window, item, place.channel);
    cuda::Vector<acc_t, kChannels> grad;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      grad[i] = at.grad(i, transform);
    }
    // Read anew for each window, from the first-level cache: the registers are better spent on loads under way.
    const auto input_grad = load_input_grad<scalar_t>(p, group, place.channel);
    scalar_t* to = static_cast<scalar_t*>(p.grad_input) + at.corner;
    cuda::for_each_place(at.rows, at.cols, [&](int k, int row, int col) {
      Values result;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        result[i] =
            input_grad(i, transform.scale[i], at.code(i) == static_cast<unsigned>(k) ? grad[i] : acc_t(0), at.x[k][i]);
      }
      group.store(to + (row * s.width + col) * s.channels, result);
    });
    cuda::for_each_left_out(s, window, [&](int row, int col) {
      const int64_t offset = at.corner + (row * s.width + col) * s.channels;
      const Values x = group.load(static_cast<const scalar_t*>(p.input) + offset);
      Values result;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        result[i] = input_grad(i, transform.scale[i], acc_t(0), x[i]);
      }
      group.store(static_cast<scalar_t*>(p.grad_input) + offset, result);
    });
  }
}

void launch_forward(const cuda::Launcher& launch, DType dtype, const NormedForwardParams& p, int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    const bool fits = cuda::fits_vectors<scalar_t>(
        p.shape.channels, {p.input, p.output, p.norm.mean, p.norm.var, p.norm.weight, p.norm.bias}, p.codes);
    cuda::call_for_bool(fits, [&](auto whole) {
      const auto tiling = cuda::window_tiling<cuda::kWindowChannels<scalar_t, whole>>(p.shape, threads_to_fill);
      launch(forward_kernel<scalar_t, whole>, tiling.config(), cuda::Tiled<NormedForwardParams>{p, tiling});
    });
  });
}

template <class scalar_t, bool kWhole>
cuda::Tiling sums_tiling(const PoolShape& shape, int64_t threads_to_fill) {
  return cuda::window_tiling<cuda::kWindowChannels<scalar_t, kWhole>>(shape, threads_to_fill / cuda::kSumShare,
                                                                      {1, 64});
}

int64_t backward_parts(DType dtype, const PoolShape& shape, int64_t threads_to_fill) {
  return cuda::most_parts(
      dtype, [&](auto element, auto whole) { return sums_tiling<decltype(element), whole>(shape, threads_to_fill); });
}

void launch_backward(const cuda::Launcher& launch, DType dtype, const NormedBackwardParams& params,
                     int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    cuda::call_for_bool(grads_fit_vectors<scalar_t>(params), [&](auto whole) {
      constexpr int kChannels = cuda::kWindowChannels<scalar_t, whole>;
      launch_grads<scalar_t, kChannels>(launch, params, sums_tiling<scalar_t, whole>(params.shape, threads_to_fill),
                                        cuda::window_tiling<kChannels>(params.shape, threads_to_fill),
                                        backward_reduce_kernel<scalar_t, whole>,
                                        backward_input_kernel<scalar_t, whole>);
    });
  });
}

}  // namespace segnet_ext::bn_relu_max_pool2d
