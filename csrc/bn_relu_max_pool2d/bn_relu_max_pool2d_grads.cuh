// What the CUDA kernels of BatchNorm and ReLU share, with a pool behind them and without: the affine map, the sums of
// the gradient that reaches it, and what they come to.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "common/merge.cuh"
#include "common/tiling.cuh"
#include "segnet_ext/elementwise.h"

namespace segnet_ext::bn_relu_max_pool2d {

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

template <class scalar_t, int kChannels, bool kWhole>
SEGNET_DEVICE auto load_transform(const NormParams& norm, const cuda::ChannelGroup<kChannels, kWhole>& group,
                                  int64_t channel) {
  using acc_t = acc_type<scalar_t>;
  const auto load = [&](const void* vector, acc_t otherwise) {
    cuda::Vector<acc_t, kChannels> values;
    if (vector != nullptr) {
      values = group.load(static_cast<const acc_t*>(vector) + channel);
    } else {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        values[i] = otherwise;
      }
    }
    return values;
  };
  Transform<scalar_t, kChannels> transform{load(norm.var, 0), load(norm.bias, 0)};
  const auto weight = load(norm.weight, 1), mean = load(norm.mean, 0);
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const acc_t invstd = batch_norm_invstd(transform.scale[i], static_cast<acc_t>(norm.eps));
    const BatchNormAffine<acc_t> affine = batch_norm_affine(mean[i], invstd, weight[i], transform.shift[i]);
    transform.scale[i] = affine.scale;
    transform.shift[i] = affine.shift;
  }
  return transform;
}

// The gradient of the input of a BatchNorm from `reached`, what reaches its result.
template <class scalar_t, int kChannels>
struct InputGrad {
  using acc_t = acc_type<scalar_t>;
  bool batch_statistics;
  cuda::Vector<acc_t, kChannels> mean, grad_offset, grad_slope;

  // With fixed statistics a pixel's gradient does not depend on its own value, which may be infinite.
  SEGNET_DEVICE scalar_t operator()(int i, acc_t scale, acc_t reached, scalar_t x) const {
    const BatchNormInputGrad<acc_t> batch_norm{scale, mean[i], grad_offset[i], grad_slope[i]};
    return cuda::from_acc<scalar_t>(batch_statistics ? batch_norm(reached, cuda::to_acc(x)) : scale * reached);
  }
};

template <class scalar_t, int kChannels, bool kWhole>
SEGNET_DEVICE auto load_input_grad(const NormedBackwardParams& p, const cuda::ChannelGroup<kChannels, kWhole>& group,
                                   int64_t channel) {
  using acc_t = acc_type<scalar_t>;
  InputGrad<scalar_t, kChannels> input_grad{p.batch_statistics, {}, {}, {}};
  if (p.batch_statistics) {
    input_grad.mean = group.load(static_cast<const acc_t*>(p.norm.mean) + channel);
    input_grad.grad_offset = group.load(static_cast<const acc_t*>(p.grad_offset) + channel);
    input_grad.grad_slope = group.load(static_cast<const acc_t*>(p.grad_slope) + channel);
  }
  return input_grad;
}

// Sums of the gradient, and of gradient * (x - mean), over a block's items, to the block's part. walk(transform, mean,
// add) calls add(i, gradient, x - mean) for channel i of each of the calling thread's items.
template <class scalar_t, int kChannels, bool kWhole, class Walk>
SEGNET_DEVICE void sum_grads(const cuda::Tiled<NormedBackwardParams>& params, const cuda::TilePlace<kChannels>& place,
                             const cuda::ChannelGroup<kChannels, kWhole>& group, void* shared, const Walk& walk) {
  using acc_t = acc_type<scalar_t>;
  const NormedBackwardParams& p = params.op;
  acc_t sums[2 * kChannels] = {};
  if (group.exists()) {
    const auto mean = group.load(static_cast<const acc_t*>(p.norm.mean) + place.channel);
    walk(load_transform<scalar_t>(p.norm, group, place.channel), mean, [&](int i, acc_t grad, acc_t deviation) {
      sums[i] += grad;
      sums[kChannels + i] += grad * deviation;
    });
  }
  cuda::reduce_rows(sums, place.row, params.tiling.rows, static_cast<acc_t*>(shared), [&](const auto& other) {
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
__global__ void __launch_bounds__(cuda::kMergeThreads) merge_grads_kernel(NormedBackwardParams p) {
  SEGNET_DYNAMIC_SHARED(shared);
  const cuda::MergePlace place(p.parts);
  const int64_t channels = p.shape.channels, c = place.channel;

  double sums[2] = {};
  if (c < channels) {
    cuda::walk_items<cuda::kMergeLoads>(
        place, cuda::kMergeRows,
        [&](int64_t part) {
          return cuda::Vector<double, 2>{{p.partial_sum[part * channels + c], p.partial_product[part * channels + c]}};
        },
        [&](int64_t, const auto& other) {
          sums[0] += other[0];
          sums[1] += other[1];
        });
  }
  cuda::reduce_rows(sums, place.row, cuda::kMergeRows, reinterpret_cast<double*>(shared), [&](const auto& other) {
    sums[0] += other(0);
    sums[1] += other(1);
  });
  if (place.row == 0 && c < channels) {
    const auto pixels = static_cast<double>(p.shape.batch * p.shape.height * p.shape.width);
    const acc_t invstd = batch_norm_invstd(static_cast<const acc_t*>(p.norm.var)[c], static_cast<acc_t>(p.norm.eps));
    const acc_t weight = p.norm.weight == nullptr ? acc_t(1) : static_cast<const acc_t*>(p.norm.weight)[c];
    const acc_t scale = batch_norm_affine(acc_t(0), invstd, weight, acc_t(0)).scale;
    const auto grads = batch_norm_grads<double>(sums[0], sums[1], invstd, scale, pixels);
    static_cast<acc_t*>(p.grad_weight)[c] = static_cast<acc_t>(grads.weight);
    static_cast<acc_t*>(p.grad_bias)[c] = static_cast<acc_t>(grads.bias);
    static_cast<acc_t*>(p.grad_offset)[c] = static_cast<acc_t>(grads.offset);
    static_cast<acc_t*>(p.grad_slope)[c] = static_cast<acc_t>(grads.slope);
  }
}

// Launches the three kernels of a backward pass, of which the first and the last walk over the map as their tilings
// say, in groups of kChannels.
template <class scalar_t, int kChannels, class Kernel>
void launch_grads(const cuda::Launcher& launch, NormedBackwardParams params, const cuda::Tiling& sums,
                  const cuda::Tiling& writes, Kernel reduce, Kernel input) {
  using acc_t = acc_type<scalar_t>;
  params.parts = sums.blocks;
  launch(reduce, sums.config(cuda::reduce_bytes<acc_t, 2 * kChannels>(sums.groups * sums.rows)),
         cuda::Tiled<NormedBackwardParams>{params, sums});
  launch(merge_grads_kernel<acc_t>, cuda::merge_config(params.shape.channels, cuda::reduce_bytes<double, 2>(1)),
         params);
  launch(input, writes.config(), cuda::Tiled<NormedBackwardParams>{params, writes});
}

// Can threads access all maps and vectors of a backward pass by vectors?
template <class scalar_t>
bool grads_fit_vectors(const NormedBackwardParams& p) {
  return cuda::fits_vectors<scalar_t>(
      p.shape.channels,
      {p.grad_output, p.input, p.output, p.norm.mean, p.norm.var, p.norm.weight, p.norm.bias, p.partial_sum,
       p.partial_product, p.grad_offset, p.grad_slope, p.grad_input},
      p.codes);
}

}  // namespace segnet_ext::bn_relu_max_pool2d
