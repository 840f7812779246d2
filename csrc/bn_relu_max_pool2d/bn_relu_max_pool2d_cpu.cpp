#include <ATen/ops/empty.h>

#include <algorithm>
#include <limits>

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
void move_running_stats(const at::Tensor& mean, const at::Tensor& var, acc_t unbiased, acc_t momentum,
                        at::Tensor& running_mean, at::Tensor& running_var) {
  const auto *means = mean.const_data_ptr<acc_t>(), *vars = var.const_data_ptr<acc_t>();
  auto *running_means = running_mean.mutable_data_ptr<acc_t>(), *running_vars = running_var.mutable_data_ptr<acc_t>();
  const int64_t mean_stride = running_mean.stride(0), var_stride = running_var.stride(0);
  const auto move = [momentum](acc_t& running, acc_t batch) { running = lerp(running, batch, momentum); };
  for (int64_t c = 0, channels = mean.numel(); c < channels; ++c) {
    move(running_means[c * mean_stride], means[c]);
    move(running_vars[c * var_stride], vars[c] * unbiased);
  }
}

template <class acc_t>
void fill_affine(const Norm& norm, Affine& affine) {
  const auto *means = norm.mean.const_data_ptr<acc_t>(), *vars = norm.var.const_data_ptr<acc_t>();
  const int64_t channels = norm.var.numel();
  auto* invstds = affine.rows.mutable_data_ptr<acc_t>();
  acc_t *scales = invstds + channels, *shifts = scales + channels;
  const auto fill = [channels](acc_t* row, const at::Tensor& given, acc_t otherwise) {
    given.defined() ? std::copy_n(given.const_data_ptr<acc_t>(), channels, row) : std::fill_n(row, channels, otherwise);
  };
  fill(scales, norm.weight, acc_t(1));
  fill(shifts, norm.bias, acc_t(0));
  const auto eps = static_cast<acc_t>(norm.eps);
  for (int64_t c = 0; c < channels; ++c) {  // without branches, for the compiler's vectors
    const acc_t invstd = batch_norm_invstd(vars[c], eps);
    const BatchNormAffine<acc_t> channel = batch_norm_affine(means[c], invstd, scales[c], shifts[c]);
    invstds[c] = invstd;
    scales[c] = channel.scale;
    shifts[c] = channel.shift;
  }
}

// Has backward_reduce go by the output where BatchNormInverse is good; origin and slope, [C], are filled here.
template <class acc_t>
void go_by_output(const Norm& norm, const Affine& affine, const at::Tensor& output, void* origin, void* slope,
                  BackwardParams& params) {
  const int64_t channels = affine.mean.numel();
  const auto *means = norm.mean.const_data_ptr<acc_t>(), *vars = norm.var.const_data_ptr<acc_t>();
  const auto *scales = static_cast<const acc_t*>(affine.scale()), *shifts = static_cast<const acc_t*>(affine.shift());
  auto *origins = static_cast<acc_t*>(origin), *slopes = static_cast<acc_t*>(slope);
  int any = 0, all = 1;
  for (int64_t c = 0; c < channels; ++c) {  // without branches, as above
    const BatchNormAffine<acc_t> channel{scales[c], shifts[c]};
    const BatchNormInverse<acc_t> back = batch_norm_inverse(means[c], channel);
    const int good = inverts(channel, back, vars[c]) ? 1 : 0;
    origins[c] = back.origin;
    slopes[c] = back.slope + (good != 0 ? acc_t(0) : std::numeric_limits<acc_t>::quiet_NaN());
    any |= good;
    all &= good;
  }
  params.output = any != 0 ? output.const_data_ptr() : nullptr;
  params.origin = origin;
  params.slope = slope;
  params.by_input = all == 0;
}

}  // namespace

void merge_sums(const at::Tensor& partial, int64_t values, const Affine& affine, at::Tensor& grad_weight,
                at::Tensor& grad_bias, const at::Tensor& means) {
  const int64_t parts = partial.size(1), channels = partial.size(2);
  const auto* sums = partial.const_data_ptr<double>();
  merge_sums(to_dtype(affine.mean.scalar_type()),
             {channels, parts, sums, sums + parts * channels, static_cast<double>(values), affine.invstd(),
              grad_weight.mutable_data_ptr(), grad_bias.mutable_data_ptr(), row_of(means, 0), row_of(means, 1)});
}

void stats_cpu(const at::Tensor& input, at::Tensor& mean, at::Tensor& var) {
  const DType dtype = to_dtype(input.scalar_type());
  const int64_t channels = input.size(1), pixels = input.numel() / channels;
  const int64_t parts = parts_of(pixels, pixels, channels);
  at::Tensor partial = at::empty({2, parts, channels}, input.options().dtype(at::kDouble));
  auto* partial_sum = partial.mutable_data_ptr<double>();
  const StatsParams params{pixels, channels,    input.const_data_ptr(),
                           parts,  partial_sum, partial_sum + parts * channels};
  parallel_tasks(parts, kGrainElements, [&](int64_t begin, int64_t end) { stats(dtype, params, begin, end); });
  merge_stats(dtype, params, mean.mutable_data_ptr(), var.mutable_data_ptr());
}

void running_stats_cpu(const at::Tensor& mean, const at::Tensor& var, double unbiased, double momentum,
                       at::Tensor& running_mean, at::Tensor& running_var) {
  if (mean.scalar_type() == at::kDouble) {
    move_running_stats<double>(mean, var, unbiased, momentum, running_mean, running_var);
  } else {
    move_running_stats<float>(mean, var, static_cast<float>(unbiased), static_cast<float>(momentum), running_mean,
                              running_var);
  }
}

Affine make_affine(const Norm& norm) {
  Affine affine{norm.mean, at::empty({3, norm.mean.numel()}, norm.mean.options())};
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
  const ForwardParams params{shape,          input.const_data_ptr(),    affine.scale(),
                             affine.shift(), output.mutable_data_ptr(), codes.mutable_data_ptr<uint8_t>()};
  parallel_tasks(shape.pooled_rows(), 2 * shape.width * shape.channels,
                 [&](int64_t begin, int64_t end) { forward(dtype, params, begin, end); });
}

void backward_cpu(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& input,
                  const at::Tensor& codes, const at::Tensor& output, const Norm& norm, bool batch_statistics,
                  at::Tensor& grad_input, at::Tensor& grad_weight, at::Tensor& grad_bias) {
  const DType dtype = to_dtype(input.scalar_type());
  const Affine affine = make_affine(norm);
  const int64_t parts = parts_of(shape.pooled_rows(), shape.pixels(), shape.channels);
  at::Tensor partial = at::empty({2, parts, shape.channels}, input.options().dtype(at::kDouble));
  const at::Tensor rows = at::empty({4, shape.channels}, affine.mean.options());

  BackwardParams params{};
  params.shape = shape;
  params.grad_output = grad_output.const_data_ptr();
  params.input = input.const_data_ptr();
  params.codes = codes.const_data_ptr<uint8_t>();
  params.mean = affine.mean.const_data_ptr();
  params.scale = affine.scale();
  params.shift = affine.shift();
  params.parts = parts;
  params.partial_sum = partial.mutable_data_ptr<double>();
  params.partial_product = params.partial_sum + parts * shape.channels;
  params.batch_statistics = batch_statistics;
  params.grad_mean = row_of(rows, 0);
  params.projection = row_of(rows, 1);
  params.grad_input = grad_input.mutable_data_ptr();
  if (output.defined()) {
    const auto go = dtype == DType::kDouble ? go_by_output<double> : go_by_output<float>;
    go(norm, affine, output, row_of(rows, 2), row_of(rows, 3), params);
  }

  parallel_tasks(parts, kGrainElements,
                 [&](int64_t begin, int64_t end) { backward_reduce(dtype, params, begin, end); });
  merge_sums(partial, shape.pixels(), affine, grad_weight, grad_bias, rows);
  if (batch_statistics) {
    parallel_tasks(shape.pooled_rows(), 2 * shape.width * shape.channels,
                   [&](int64_t begin, int64_t end) { backward_input(dtype, params, begin, end); });
  }
}

}  // namespace segnet_ext::bn_relu_max_pool2d
