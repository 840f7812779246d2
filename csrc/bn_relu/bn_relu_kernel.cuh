// CUDA kernels of BatchNorm and ReLU over channels_last maps, and how they are launched. Forward touches every byte
// once, backward reads both maps twice, for the sums and for the input gradient made with them.
#pragma once

#include "bn_relu/bn_relu_launch.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_grads.cuh"
#include "cuda/dispatch.h"

namespace segnet_ext::bn_relu {

using bn_relu_max_pool2d::load_input_grad;
using bn_relu_max_pool2d::load_transform;
using bn_relu_max_pool2d::Transform;

constexpr cuda::ItemsPerThread kPixelsPerThread{1, 16}, kSummedPixelsPerThread{1, 128};
constexpr int kPixelLoads = 4;  // vectors of 16 or 32 bytes that a thread has under way
// Backward loads two maps and keeps a dozen vectors of values by channel.
constexpr int kGradLoads = 2;
constexpr int kBackwardBlocks = 2;

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) forward_kernel(cuda::Tiled<ForwardParams> params) {
  constexpr int kChannels = cuda::kPixelChannels<scalar_t, kWhole>;
  const ForwardParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  const auto transform = load_transform<scalar_t>(p.norm, group, place.channel);
  const auto* input = static_cast<const scalar_t*>(p.input) + place.channel;
  auto* output = static_cast<scalar_t*>(p.output) + place.channel;
  cuda::walk_items<kPixelLoads>(
      place, params.tiling.rows, [&](int64_t pixel) { return group.load(input + pixel * p.channels); },
      [&](int64_t pixel, const auto& x) {
        cuda::Vector<scalar_t, kChannels> y;
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          y[i] = cuda::from_acc<scalar_t>(transform(i, x[i]));
        }
        group.store(output + pixel * p.channels, y);
      });
}

// A thread's channels of a pixel: what backward loads of it.
template <class scalar_t, int kChannels>
struct PixelGrad {
  using acc_t = acc_type<scalar_t>;
  cuda::Vector<scalar_t, kChannels> x, grad_output;

  // The gradient that reaches the BatchNorm's result.
  SEGNET_DEVICE acc_t grad(int i, const Transform<scalar_t, kChannels>& transform) const {
    return relu_grad(cuda::to_acc(grad_output[i]), transform(i, x[i]));
  }
};

template <class scalar_t, int kChannels, bool kWhole, class Use>
SEGNET_DEVICE void walk_pixels(const cuda::Tiled<BackwardParams>& params, const cuda::TilePlace<kChannels>& place,
                               const cuda::ChannelGroup<kChannels, kWhole>& group, const Use& use) {
  const BackwardParams& p = params.op;
  const int64_t channels = p.shape.channels;
  const auto* input = static_cast<const scalar_t*>(p.input) + place.channel;
  const auto* grad_output = static_cast<const scalar_t*>(p.grad_output) + place.channel;
  cuda::walk_items<kGradLoads>(
      place, params.tiling.rows,
      [&](int64_t pixel) {
        return PixelGrad<scalar_t, kChannels>{group.load(input + pixel * channels),
                                              group.load(grad_output + pixel * channels)};
      },
      use);
}

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads, kBackwardBlocks)
    backward_reduce_kernel(cuda::Tiled<BackwardParams> params) {
  constexpr int kChannels = cuda::kPixelChannels<scalar_t, kWhole>;
  SEGNET_DYNAMIC_SHARED(shared);
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(params.op.shape.channels - place.channel);
  bn_relu_max_pool2d::sum_grads<scalar_t>(
      params, place, group, shared, [&](const auto& transform, const auto& mean, const auto& add) {
        walk_pixels<scalar_t>(params, place, group, [&](int64_t, const PixelGrad<scalar_t, kChannels>& at) {
#pragma unroll
          for (int i = 0; i < kChannels; ++i) {
            add(i, at.grad(i, transform), cuda::to_acc(at.x[i]) - mean[i]);
          }
        });
      });
}

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads, kBackwardBlocks)
    backward_input_kernel(cuda::Tiled<BackwardParams> params) {
  constexpr int kChannels = cuda::kPixelChannels<scalar_t, kWhole>;
  const BackwardParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.shape.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  const auto transform = load_transform<scalar_t>(p.norm, group, place.channel);
  const auto input_grad = load_input_grad<scalar_t>(p, group, place.channel);
  auto* grad_input = static_cast<scalar_t*>(p.grad_input) + place.channel;
  walk_pixels<scalar_t>(params, place, group, [&](int64_t pixel, const PixelGrad<scalar_t, kChannels>& at) {
    cuda::Vector<scalar_t, kChannels> grad;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      grad[i] = input_grad(i, transform.scale[i], at.grad(i, transform), at.x[i]);
    }
    group.store(grad_input + pixel * p.shape.channels, grad);
  });
}

void launch_forward(const cuda::Launcher& launch, DType dtype, const ForwardParams& p, int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    const bool fits = cuda::fits_vectors<scalar_t>(
        p.channels, {p.input, p.output, p.norm.mean, p.norm.var, p.norm.weight, p.norm.bias});
    cuda::call_for_bool(fits, [&](auto whole) {
      constexpr int kChannels = cuda::kPixelChannels<scalar_t, whole>;
      const cuda::Tiling tiling = cuda::make_tiling(p.pixels, p.channels, kChannels, kPixelsPerThread, threads_to_fill);
      launch(forward_kernel<scalar_t, whole>, tiling.config(), cuda::Tiled<ForwardParams>{p, tiling});
    });
  });
}

template <class scalar_t, bool kWhole>
cuda::Tiling sums_tiling(int64_t pixels, int64_t channels, int64_t threads_to_fill) {
  return cuda::make_tiling(pixels, channels, cuda::kPixelChannels<scalar_t, kWhole>, kSummedPixelsPerThread,
                           threads_to_fill / cuda::kSumShare);
}

int64_t backward_parts(DType dtype, int64_t pixels, int64_t channels, int64_t threads_to_fill) {
  return cuda::most_parts(dtype, [&](auto element, auto whole) {
    return sums_tiling<decltype(element), whole>(pixels, channels, threads_to_fill);
  });
}

void launch_backward(const cuda::Launcher& launch, DType dtype, const BackwardParams& params, int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    const int64_t pixels = params.shape.pixels(), channels = params.shape.channels;
    cuda::call_for_bool(bn_relu_max_pool2d::grads_fit_vectors<scalar_t>(params), [&](auto whole) {
      constexpr int kChannels = cuda::kPixelChannels<scalar_t, whole>;
      bn_relu_max_pool2d::launch_grads<scalar_t, kChannels>(
          launch, params, sums_tiling<scalar_t, whole>(pixels, channels, threads_to_fill),
          cuda::make_tiling(pixels, channels, kChannels, kPixelsPerThread, threads_to_fill),
          backward_reduce_kernel<scalar_t, whole>, backward_input_kernel<scalar_t, whole>);
    });
  });
}

}  // namespace segnet_ext::bn_relu
