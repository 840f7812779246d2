// What the CUDA kernels of BatchNorm and ReLU are given, with a pool behind them and without.
#pragma once

#include <ATen/ops/empty.h>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "common/cuda_context.h"

namespace segnet_ext::bn_relu_max_pool2d {

inline NormParams read_norm(CudaContext& context, const Norm& norm) {
  return {context.read(norm.mean, "mean"), context.read(norm.var, "var"),
          norm.weight.defined() ? context.read(norm.weight, "weight") : nullptr,
          norm.bias.defined() ? context.read(norm.bias, "bias") : nullptr, norm.eps};
}

// What a backward pass allocates.
struct GradsWorkspace {
  at::Tensor partials, lines;

  GradsWorkspace(const Norm& norm, int64_t parts)
      : partials(at::empty({2, parts, norm.mean.numel()}, norm.mean.options().dtype(at::kDouble))),
        lines(at::empty({2, norm.mean.numel()}, norm.mean.options())) {}

  // All but the shape and the maps.
  NormedBackwardParams params(CudaContext& context, const Norm& norm, bool batch_statistics,
                              const at::Tensor& grad_weight, const at::Tensor& grad_bias) const {
    const int64_t channels = norm.mean.numel();
    NormedBackwardParams params{};
    params.norm = read_norm(context, norm);
    params.batch_statistics = batch_statistics;
    params.parts = partials.size(1);
    params.partial_sum = static_cast<double*>(context.write(partials, "partial sums"));
    params.partial_product = params.partial_sum + params.parts * channels;
    params.grad_offset = context.write(lines, "grad_offset and grad_slope");
    params.grad_slope = static_cast<char*>(params.grad_offset) + channels * lines.element_size();
    params.grad_weight = context.write(grad_weight, "grad_weight");
    params.grad_bias = context.write(grad_bias, "grad_bias");
    return params;
  }
};

}  // namespace segnet_ext::bn_relu_max_pool2d
