// CUDA kernels of bn_relu_max_pool2d over channels_last maps, and how they are launched. Forward touches every byte
// once. Backward reads the maps twice, for the sums over winners and for the input gradient made with them.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_stats.cuh"
#include "common/pool.cuh"

namespace segnet_ext::bn_relu_max_pool2d {

// Blocks of backward that a multiprocessor is to hold. A thread needs about 80 registers for 4 floats a pixel and 120
// for twice as many channels (halfs) or bytes (doubles); either way its blocks can have over 40 KiB of loads under way,
// twice what it takes to keep the memory of the largest devices busy.
template <class scalar_t>
constexpr int kBackwardBlocks = sizeof(scalar_t) == 4 ? 3 : 2;

// BatchNorm and ReLU of a thread's channels, rounded to scalar_t so that the values that the unfused operations would
// find equal are equal here too.
template <class scalar_t, int kChannels>
struct Transform {
  using acc_t = acc_type<scalar_t>;
  cuda::Vector<acc_t, kChannels> scale, shift;

  SEGNET_DEVICE acc_t operator()(int i, scalar_t x) const {
    const BatchNormAffine<acc_t> affine{scale[i], shift[i]};
    return relu(cuda::to_acc(cuda::from_acc<scalar_t>(affine(cuda::to_acc(x)))));
  }
};

template <class scalar_t, bool kWhole, class Params>
SEGNET_DEVICE auto load_transform(const Params& p,
                                  const cuda::ChannelGroup<cuda::kGroupChannels<scalar_t>, kWhole>& group,
                                  int64_t channel) {
  using acc_t = acc_type<scalar_t>;
  return Transform<scalar_t, cuda::kGroupChannels<scalar_t>>{group.load(static_cast<const acc_t*>(p.scale) + channel),
                                                             group.load(static_cast<const acc_t*>(p.shift) + channel)};
}

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) forward_kernel(cuda::Tiled<ForwardParams> params) {
  constexpr int kChannels = cuda::kGroupChannels<scalar_t>;
  const ForwardParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.shape.channels - place.channel);
  if (group.exists()) {
    cuda::pool_windows(p, params.tiling, place, group, static_cast<const scalar_t*>(p.input),
                       static_cast<scalar_t*>(p.output), load_transform<scalar_t>(p, group, place.channel));
  }
}

// What a thread knows of one window: its pixels, the clipped codes, the gradient of its output.
template <class scalar_t, bool kWhole>
struct WindowGrad {
  using acc_t = acc_type<scalar_t>;
  static constexpr int kChannels = cuda::kGroupChannels<scalar_t>;

  int64_t corner;  // offset of this thread's channels of the first pixel
  int rows, cols;
  unsigned codes;
  cuda::Vector<scalar_t, kChannels> grad_output, x[4];

  SEGNET_DEVICE WindowGrad(const BackwardParams& p, const cuda::ChannelGroup<kChannels, kWhole>& group,
                           const cuda::Window& window, int64_t item, int64_t channel)
      : corner(window.corner(p.shape) + channel), rows(window.rows(p.shape)), cols(window.cols(p.shape)), x{} {
    const int64_t channels = p.shape.channels;
    grad_output = group.load(static_cast<const scalar_t*>(p.grad_output) + item * channels + channel);
    const uint8_t* bytes = p.codes + item * codes_bytes(channels) + channel / kCodesPerByte;
    codes = cuda::clip_codes(group.load_codes(bytes), rows, cols);
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
__global__ void __launch_bounds__(cuda::kTileThreads, kBackwardBlocks<scalar_t>)
    backward_reduce_kernel(cuda::Tiled<BackwardParams> params) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kChannels = cuda::kGroupChannels<scalar_t>;
  SEGNET_DYNAMIC_SHARED(shared);
  const BackwardParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.shape.channels - place.channel);

  acc_t sums[2 * kChannels] = {};  // of the gradient, of gradient * (x - mean)
  if (group.exists()) {
    const auto transform = load_transform<scalar_t>(p, group, place.channel);
    const auto mean = group.load(static_cast<const acc_t*>(p.mean) + place.channel);
    cuda::Window window(p.shape, place.item);
    for (int64_t item = place.item; item < place.end;
         item += params.tiling.rows, window.advance(p.shape, params.tiling.rows)) {
      const WindowGrad<scalar_t, kWhole> at(p, group, window, item, place.channel);
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        const acc_t grad = at.grad(i, transform);
        sums[i] += grad;
        sums[kChannels + i] += grad * (cuda::to_acc(at.winner(i)) - mean[i]);
      }
    }
  }
  cuda::reduce_rows(sums, place.row, params.tiling.rows, reinterpret_cast<acc_t*>(shared), [&](const auto& other) {
#pragma unroll
    for (int i = 0; i < 2 * kChannels; ++i) {
      sums[i] += other(i);
    }
  });
  if (place.row == 0 && group.exists()) {
    cuda::Vector<double, kChannels> sum, product;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      sum[i] = sums[i];
      product[i] = sums[kChannels + i];
    }
    const int64_t to = (blockIdx.x / params.tiling.tiles) * p.shape.channels + place.channel;
    group.store(p.partial_sum + to, sum);
    group.store(p.partial_product + to, product);
  }
}

template <class acc_t>
__global__ void __launch_bounds__(kMergeChannels* kMergeRows) merge_grads_kernel(MergeGradsParams params) {
  SEGNET_DYNAMIC_SHARED(shared);
  const BackwardParams& p = params.backward;
  const int64_t channels = p.shape.channels;
  const int row = static_cast<int>(threadIdx.x) / kMergeChannels;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kMergeChannels + static_cast<int>(threadIdx.x) % kMergeChannels;

  double sums[2] = {};
  for (int64_t part = row; c < channels && part < p.parts; part += kMergeRows) {
    sums[0] += p.partial_sum[part * channels + c];
    sums[1] += p.partial_product[part * channels + c];
  }
  cuda::reduce_rows(sums, row, kMergeRows, reinterpret_cast<double*>(shared), [&](const auto& other) {
    sums[0] += other(0);
    sums[1] += other(1);
  });
  if (row == 0 && c < channels) {
    const auto pixels = static_cast<double>(p.shape.batch * p.shape.height * p.shape.width);
    const BatchNormGrads grads =
        batch_norm_grads(sums[0], sums[1], static_cast<const acc_t*>(params.invstd)[c], pixels);
    static_cast<acc_t*>(params.grad_weight)[c] = static_cast<acc_t>(grads.weight);
    static_cast<acc_t*>(params.grad_bias)[c] = static_cast<acc_t>(grads.bias);
    static_cast<acc_t*>(params.grad_mean)[c] = static_cast<acc_t>(grads.mean);
    static_cast<acc_t*>(params.projection)[c] = static_cast<acc_t>(grads.projection);
  }
}

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads, kBackwardBlocks<scalar_t>)
    backward_input_kernel(cuda::Tiled<BackwardParams> params) {
  using acc_t = acc_type<scalar_t>;
  constexpr int kChannels = cuda::kGroupChannels<scalar_t>;
  using Values = cuda::Vector<scalar_t, kChannels>;
  const BackwardParams& p = params.op;
  const PoolShape& s = p.shape;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(s.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  const auto transform = load_transform<scalar_t>(p, group, place.channel);
  cuda::Window window(s, place.item);
  for (int64_t item = place.item; item < place.end; item += params.tiling.rows, window.advance(s, params.tiling.rows)) {
    const WindowGrad<scalar_t, kWhole> at(p, group, window, item, place.channel);
    cuda::Vector<acc_t, kChannels> grad;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      grad[i] = at.grad(i, transform);
    }
    // Read anew for each window, from the first-level cache: the registers are better spent on loads under way.
    cuda::Vector<acc_t, kChannels> mean{}, grad_mean{}, projection{};
    if (p.batch_statistics) {
      mean = group.load(static_cast<const acc_t*>(p.mean) + place.channel);
      grad_mean = group.load(static_cast<const acc_t*>(p.grad_mean) + place.channel);
      projection = group.load(static_cast<const acc_t*>(p.projection) + place.channel);
    }
    // With fixed statistics a pixel's gradient does not depend on its own value, which may be infinite.
    const auto input_grad = [&](int i, acc_t reached, scalar_t x) {
      const BatchNormInputGrad<acc_t> batch_norm{transform.scale[i], mean[i], grad_mean[i], projection[i]};
      return cuda::from_acc<scalar_t>(p.batch_statistics ? batch_norm(reached, cuda::to_acc(x))
                                                         : transform.scale[i] * reached);
    };
    scalar_t* to = static_cast<scalar_t*>(p.grad_input) + at.corner;
    cuda::for_each_place(at.rows, at.cols, [&](int k, int row, int col) {
      Values result;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        result[i] = input_grad(i, at.code(i) == static_cast<unsigned>(k) ? grad[i] : acc_t(0), at.x[k][i]);
      }
      group.store(to + (row * s.width + col) * s.channels, result);
    });
    cuda::for_each_left_out(s, window, [&](int row, int col) {
      const int64_t offset = at.corner + (row * s.width + col) * s.channels;
      const Values x = group.load(static_cast<const scalar_t*>(p.input) + offset);
      Values result;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        result[i] = input_grad(i, acc_t(0), x[i]);
      }
      group.store(static_cast<scalar_t*>(p.grad_input) + offset, result);
    });
  }
}

void launch_forward(const cuda::Launcher& launch, DType dtype, const ForwardParams& p, int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    const cuda::Tiling tiling = cuda::window_tiling<cuda::kGroupChannels<scalar_t>>(p.shape, threads_to_fill);
    const bool whole = cuda::fits_vectors<cuda::kGroupChannels<scalar_t>>(
        p.shape.channels, {p.input, p.output, p.scale, p.shift}, p.codes);
    launch(whole ? forward_kernel<scalar_t, true> : forward_kernel<scalar_t, false>, tiling.config(),
           cuda::Tiled<ForwardParams>{p, tiling});
  });
}

int64_t backward_parts(DType dtype, const PoolShape& shape, int64_t threads_to_fill) {
  int64_t parts = 0;
  cuda::call_for_dtype(dtype, [&](auto element) {
    parts = cuda::window_tiling<cuda::kGroupChannels<decltype(element)>>(shape, threads_to_fill).blocks;
  });
  return parts;
}

void launch_backward(const cuda::Launcher& launch, DType dtype, const MergeGradsParams& params,
                     int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    using acc_t = acc_type<scalar_t>;
    constexpr int kChannels = cuda::kGroupChannels<scalar_t>;
    const BackwardParams& p = params.backward;
    const cuda::Tiling tiling = cuda::window_tiling<cuda::kGroupChannels<scalar_t>>(p.shape, threads_to_fill);
    const bool whole = cuda::fits_vectors<kChannels>(p.shape.channels,
                                                     {p.grad_output, p.input, p.mean, p.scale, p.shift, p.partial_sum,
                                                      p.partial_product, p.grad_mean, p.projection, p.grad_input},
                                                     p.codes);
    const cuda::Tiled<BackwardParams> tiled{p, tiling};
    launch(whole ? backward_reduce_kernel<scalar_t, true> : backward_reduce_kernel<scalar_t, false>,
           tiling.config(cuda::reduce_bytes<acc_t, 2 * kChannels>(tiling.groups * tiling.rows)), tiled);
    launch(merge_grads_kernel<acc_t>, merge_config(p.shape.channels, cuda::reduce_bytes<double, 2>(1)), params);
    launch(whole ? backward_input_kernel<scalar_t, true> : backward_input_kernel<scalar_t, false>, tiling.config(),
           tiled);
  });
}

}  // namespace segnet_ext::bn_relu_max_pool2d
