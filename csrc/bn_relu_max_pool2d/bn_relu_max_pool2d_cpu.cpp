#include <ATen/ops/empty.h>

#include <algorithm>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_cpu_kernel.h"
#include "common/line_array.h"
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

// Has backward_reduce go by the output where BatchNormInverse is good; origin and slope, [C], are filled here.
void go_by_output(DType dtype, const Norm& norm, const Affine& affine, const at::Tensor& output, void* origin,
                  void* slope, BackwardParams& params) {
  const int64_t channels = affine.mean.numel();
  int64_t good = 0;
  make_inverse(dtype, {channels, norm.mean.const_data_ptr(), norm.var.const_data_ptr(), affine.scale(), affine.shift(),
                       origin, slope, &good});
  params.output = good > 0 ? output.const_data_ptr() : nullptr;
  params.origin = origin;
  params.slope = slope;
  params.by_input = good < channels;
}

}  // namespace

void merge_sums(const double* partial, int64_t parts, int64_t values, const Affine& affine, at::Tensor& grad_weight,
                at::Tensor& grad_bias, void* grad_offset, void* grad_slope) {
  const int64_t channels = affine.mean.numel();
  merge_sums(to_dtype(affine.mean.scalar_type()),
             {channels, parts, partial, partial + parts * channels, static_cast<double>(values), affine.invstd(),
              affine.scale(), grad_weight.mutable_data_ptr(), grad_bias.mutable_data_ptr(), grad_offset, grad_slope});
}

void stats_cpu(const at::Tensor& input, at::Tensor& mean, at::Tensor& var) {
  const DType dtype = to_dtype(input.scalar_type());
  const int64_t channels = input.size(1), pixels = input.numel() / channels;
  const int64_t parts = parts_of(pixels, pixels, channels);
  const LineArray<double> partial(new_lines<double>(2 * parts * channels));
  const StatsParams params{pixels, channels,      input.const_data_ptr(),
                           parts,  partial.get(), partial.get() + parts * channels};
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
  const auto data = [](const at::Tensor& vector) { return vector.defined() ? vector.const_data_ptr() : nullptr; };
  make_affine(to_dtype(norm.mean.scalar_type()),
              {norm.mean.numel(), data(norm.mean), data(norm.var), data(norm.weight), data(norm.bias), norm.eps,
               row_of(affine.rows, 0), row_of(affine.rows, 1), row_of(affine.rows, 2)});
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
  const LineArray<double> partial(new_lines<double>(2 * parts * shape.channels));
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
  params.partial_sum = partial.get();
  params.partial_product = params.partial_sum + parts * shape.channels;
  params.batch_statistics = batch_statistics;
  params.grad_offset = row_of(rows, 0);
  params.grad_slope = row_of(rows, 1);
  params.grad_input = grad_input.mutable_data_ptr();
  if (output.defined()) {
    go_by_output(dtype, norm, affine, output, row_of(rows, 2), row_of(rows, 3), params);
  }

  parallel_tasks(parts, kGrainElements,
                 [&](int64_t begin, int64_t end) { backward_reduce(dtype, params, begin, end); });
  merge_sums(partial.get(), parts, shape.pixels(), affine, grad_weight, grad_bias, row_of(rows, 0), row_of(rows, 1));
  if (batch_statistics) {
    parallel_tasks(shape.pooled_rows(), 2 * shape.width * shape.channels,
                   [&](int64_t begin, int64_t end) { backward_input(dtype, params, begin, end); });
  }
}

}  // namespace segnet_ext::bn_relu_max_pool2d
