#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_cpu_kernel.h"
#include "common/parallel.h"
#include "segnet_ext/checks.h"
#include "segnet_ext/elementwise.h"

namespace segnet_ext::bn_relu_max_pool2d {
namespace {

// What a part of a reduction is at least: elements, and pixels to a channel, since every part has two doubles a channel
// to clear, add to and merge.
constexpr int64_t kPartElements = 2 * kGrainElements, kPartPixels = 256;

// Parts of a reduction over the `items` that a map is walked by: by the sizes alone, never by the number of threads.
int64_t parts_of(int64_t items, int64_t pixels, int64_t channels) {
  const int64_t worth = std::min(pixels / kPartPixels, pixels * channels / kPartElements);
  return std::max<int64_t>(1, std::min({kMaxParts, items, worth}));
}

template <class acc_t>
void merge_sums_of(const at::Tensor& partial, int64_t values, const at::Tensor& invstd, at::Tensor& grad_weight,
                   at::Tensor& grad_bias, at::Tensor& grad_mean, at::Tensor& projection) {
  const int64_t parts = partial.size(1), channels = partial.size(2);
  const auto* sums = partial.const_data_ptr<double>();
  const double* products = sums + parts * channels;
  const auto* invstds = invstd.const_data_ptr<acc_t>();
  auto* weight = grad_weight.mutable_data_ptr<acc_t>();
  auto* bias = grad_bias.mutable_data_ptr<acc_t>();
  auto* mean = grad_mean.mutable_data_ptr<acc_t>();
  auto* projections = projection.mutable_data_ptr<acc_t>();
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t part = 0; part < parts; ++part) {
      sum += sums[part * channels + c];
      product += products[part * channels + c];
    }
    const BatchNormGrads grads = batch_norm_grads(sum, product, invstds[c], static_cast<double>(values));
    weight[c] = static_cast<acc_t>(grads.weight);
    bias[c] = static_cast<acc_t>(grads.bias);
    mean[c] = static_cast<acc_t>(grads.mean);
    projections[c] = static_cast<acc_t>(grads.projection);
  }
}

template <class acc_t>
void fill_affine(const Norm& norm, Affine& affine) {
  // Asking a tensor for its data takes longer than a channel does.
  const auto* means = norm.mean.const_data_ptr<acc_t>();
  const auto* vars = norm.var.const_data_ptr<acc_t>();
  const acc_t* gains = norm.weight.defined() ? norm.weight.const_data_ptr<acc_t>() : nullptr;
  const acc_t* offsets = norm.bias.defined() ? norm.bias.const_data_ptr<acc_t>() : nullptr;
  auto* invstds = affine.invstd.mutable_data_ptr<acc_t>();
  auto* scales = affine.scale.mutable_data_ptr<acc_t>();
  auto* shifts = affine.shift.mutable_data_ptr<acc_t>();
  for (int64_t c = 0, channels = norm.var.numel(); c < channels; ++c) {
    const acc_t invstd = batch_norm_invstd(vars[c], static_cast<acc_t>(norm.eps));
    const BatchNormAffine<acc_t> channel =
        batch_norm_affine(means[c], invstd, gains ? gains[c] : acc_t(1), offsets ? offsets[c] : acc_t(0));
    invstds[c] = invstd;
    scales[c] = channel.scale;
    shifts[c] = channel.shift;
  }
}

}  // namespace

void merge_sums(const at::Tensor& partial, int64_t values, const at::Tensor& invstd, at::Tensor& grad_weight,
                at::Tensor& grad_bias, at::Tensor& grad_mean, at::Tensor& projection) {
  if (invstd.scalar_type() == at::kDouble) {
    merge_sums_of<double>(partial, values, invstd, grad_weight, grad_bias, grad_mean, projection);
  } else {
    merge_sums_of<float>(partial, values, invstd, grad_weight, grad_bias, grad_mean, projection);
  }
}

void stats_cpu(const at::Tensor& input, at::Tensor& mean, at::Tensor& var) {
  const DType dtype = to_dtype(input.scalar_type());
  const int64_t channels = input.size(1), pixels = input.numel() / channels;
  const int64_t parts = parts_of(pixels, pixels, channels);
  at::Tensor partial = at::zeros({2, parts, channels}, input.options().dtype(at::kDouble));
  auto* partial_sum = partial.mutable_data_ptr<double>();
  const StatsParams params{pixels, channels,    input.const_data_ptr(),
                           parts,  partial_sum, partial_sum + parts * channels};
  parallel_tasks(parts, kGrainElements, [&](int64_t begin, int64_t end) { stats(dtype, params, begin, end); });
  merge_stats(dtype, params, mean.mutable_data_ptr(), var.mutable_data_ptr());
}

Affine make_affine(const Norm& norm) {
  Affine affine{norm.mean, at::empty_like(norm.mean), at::empty_like(norm.mean), at::empty_like(norm.mean)};
  if (norm.var.scalar_type() == at::kDouble) {
    fill_affine<double>(norm, affine);
  } else {
    fill_affine<float>(norm, affine);
  }
  return affine;
}

void forward_cpu(const PoolShape& shape, const at::Tensor& input, const Norm& norm, at::Tensor& output,
                 at::Tensor& codes) {
  const DType dtype = to_dtype(input.scalar_type());
  const Affine affine = make_affine(norm);
  const ForwardParams params{shape,
                             input.const_data_ptr(),
                             affine.scale.const_data_ptr(),
                             affine.shift.const_data_ptr(),
                             output.mutable_data_ptr(),
                             codes.mutable_data_ptr<uint8_t>()};
  parallel_tasks(shape.pooled_rows(), 2 * shape.width * shape.channels,
                 [&](int64_t begin, int64_t end) { forward(dtype, params, begin, end); });
}

void backward_cpu(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                  const at::Tensor& codes, const Norm& norm, bool batch_statistics, at::Tensor& grad_input,
                  at::Tensor& grad_weight, at::Tensor& grad_bias) {
  const DType dtype = to_dtype(input.scalar_type());
  const Affine affine = make_affine(norm);
  const int64_t parts = parts_of(shape.pooled_rows(), shape.pixels(), shape.channels);
  at::Tensor partial = at::zeros({2, parts, shape.channels}, input.options().dtype(at::kDouble));
  at::Tensor grad_mean = at::empty_like(affine.mean), projection = at::empty_like(affine.mean);

  BackwardParams params{};
  params.shape = shape;
  params.grad_output = grad_output.const_data_ptr();
  params.input = input.const_data_ptr();
  params.codes = codes.const_data_ptr<uint8_t>();
  params.mean = affine.mean.const_data_ptr();
  params.scale = affine.scale.const_data_ptr();
  params.shift = affine.shift.const_data_ptr();
  params.parts = parts;
  params.partial_sum = partial.mutable_data_ptr<double>();
  params.partial_product = params.partial_sum + parts * shape.channels;
  params.batch_statistics = batch_statistics;
  params.grad_mean = grad_mean.const_data_ptr();
  params.projection = projection.const_data_ptr();
  params.grad_input = grad_input.mutable_data_ptr();

  parallel_tasks(parts, kGrainElements,
                 [&](int64_t begin, int64_t end) { backward_reduce(dtype, params, begin, end); });
  merge_sums(partial, shape.pixels(), affine.invstd, grad_weight, grad_bias, grad_mean, projection);
  if (batch_statistics) {
    parallel_tasks(shape.pooled_rows(), 2 * shape.width * shape.channels,
                   [&](int64_t begin, int64_t end) { backward_input(dtype, params, begin, end); });
  }
}

}  // namespace segnet_ext::bn_relu_max_pool2d
