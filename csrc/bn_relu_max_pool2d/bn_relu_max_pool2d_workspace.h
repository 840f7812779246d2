// What the backward passes of BatchNorm and ReLU allocate on CUDA, with a pool behind them and without.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "common/cuda_context.h"

namespace segnet_ext::bn_relu_max_pool2d {

struct GradsWorkspace {
  at::Tensor partial_sum, partial_product, grad_mean, projection;

  GradsWorkspace(const Affine& affine, int64_t parts)
      : partial_sum(at::empty({parts, affine.mean.numel()}, affine.mean.options().dtype(at::kDouble))),
        partial_product(at::empty_like(partial_sum)),
        grad_mean(at::empty_like(affine.mean)),
        projection(at::empty_like(affine.mean)) {}

  // All but the shape and the maps.
  MergeGradsParams params(CudaContext& context, const Affine& affine, bool batch_statistics,
                          const at::Tensor& grad_weight, const at::Tensor& grad_bias) const {
    MergeGradsParams params{};
    params.invstd = context.read(affine.invstd, "invstd");
    params.grad_weight = context.write(grad_weight, "grad_weight");
    params.grad_bias = context.write(grad_bias, "grad_bias");
    params.grad_mean = context.write(grad_mean, "grad_mean");
    params.projection = context.write(projection, "projection");
    BackwardParams& backward = params.backward;
    backward.mean = context.read(affine.mean, "mean");
    backward.scale = context.read(affine.scale, "scale");
    backward.shift = context.read(affine.shift, "shift");
    backward.parts = partial_sum.size(0);
    backward.partial_sum = static_cast<double*>(context.write(partial_sum, "partial_sum"));
    backward.partial_product = static_cast<double*>(context.write(partial_product, "partial_product"));
    backward.batch_statistics = batch_statistics;
    backward.grad_mean = params.grad_mean;
    backward.projection = params.projection;
    return params;
  }
};

}  // namespace segnet_ext::bn_relu_max_pool2d
