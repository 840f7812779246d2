// The pool kernels against their definitions on integer values, where all arithmetic is exact; backward on any bytes.
#include <algorithm>
#include <limits>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_cpu_kernel.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_cpu_kernel.h"
#include "pools_problem.h"
#include "segnet_ext/elementwise.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

int64_t random_channels(Random& random) {
  return draw(random, 0, 4) == 0 ? draw(random, 250, 270) : draw(random, 1, 40);
}

template <class T>
void max_pool(Random& random) {
  using E = Element<T>;
  const PoolShape s = random_shape(random, random_channels(random));
  const int64_t bytes = codes_bytes(s.channels), windows = windows_of(s);
  const auto input = integers<T>(s.pixels() * s.channels, random);
  Buffer<T> output(windows * s.channels);
  Buffer<uint8_t> codes(windows * bytes);
  const max_pool2d_with_codes::ForwardParams params{s, input.data(), output.data(), codes.data()};
  on_threads(s.pooled_rows(), 3,
             [&](int64_t begin, int64_t end) { max_pool2d_with_codes::forward(E::kDType, params, begin, end); });
  check_max_pool(s, input, output, codes);

  const auto any = random_bytes(windows * bytes, random);
  const auto grad_output = integers<T>(windows * s.channels, random);
  Buffer<T> grad_input(input.size());
  const max_pool2d_with_codes::BackwardParams backward{s, grad_output.data(), any.data(), grad_input.data()};
  on_threads(s.pooled_rows(), 3,
             [&](int64_t begin, int64_t end) { max_pool2d_with_codes::backward(E::kDType, backward, begin, end); });
  check_max_pool_backward(s, grad_output, any, grad_input);
}

// Every value of a half type passes through a pool unchanged.
template <class T>
void every_half_value() {
  PoolShape s{1, 1 << 16, 1, 1, 1, 1};
  Buffer<T> input(s.channels), output(s.channels);
  Buffer<uint8_t> codes(codes_bytes(s.channels));
  for (int64_t i = 0; i < s.channels; ++i) {
    input[i].bits = static_cast<uint16_t>(i);
  }
  max_pool2d_with_codes::forward(Element<T>::kDType, {s, input.data(), output.data(), codes.data()}, 0, 1);
  for (int64_t i = 0; i < s.channels; ++i) {
    const double before = Element<T>::value(input[i]), after = Element<T>::value(output[i]);
    const bool unchanged = std::isnan(before) ? std::isnan(after) : input[i].bits == output[i].bits;
    CHECK(unchanged, "%04x became %04x", static_cast<unsigned>(input[i].bits), static_cast<unsigned>(output[i].bits));
  }
}

int wide_sums[2] = {};  // of at least a vector of channels: from the output alone, and from the input as well

template <class T>
void fused_pool(Random& random) {
  using E = Element<T>;
  using acc_t = acc_type<T>;
  namespace op = bn_relu_max_pool2d;
  const PoolShape s = random_shape(random, random_channels(random));
  const FusedProblem<T> problem(s, draw(random, 0, 1) == 1, random);

  const int64_t parts = draw(random, 1, std::min<int64_t>(5, s.pooled_rows()));
  Buffer<double> partial_first(parts * s.channels), partial_second(parts * s.channels);
  const auto clear = [&] {
    std::fill_n(partial_first.data(), partial_first.size(), 0.0);
    std::fill_n(partial_second.data(), partial_second.size(), 0.0);
  };
  clear();
  const op::StatsParams stats{s.pixels(), s.channels,           problem.input.data(),
                              parts,      partial_first.data(), partial_second.data()};
  on_threads(parts, 2, [&](int64_t begin, int64_t end) { op::stats(E::kDType, stats, begin, end); });
  Buffer<acc_t> batch_mean(s.channels), batch_var(s.channels);
  op::merge_stats(E::kDType, stats, batch_mean.data(), batch_var.data());
  check_stats(s.pixels(), problem.input, batch_mean, batch_var, 1e-5);

  Buffer<T> output(windows_of(s) * s.channels);
  Buffer<uint8_t> codes(windows_of(s) * codes_bytes(s.channels));
  const op::ForwardParams params = problem.forward(output, codes);
  on_threads(s.pooled_rows(), 3, [&](int64_t begin, int64_t end) { op::forward(E::kDType, params, begin, end); });
  problem.check_output(output, codes);

  const auto grad_offset = integers<acc_t>(s.channels, random), grad_slope = integers<acc_t>(s.channels, random, -1, 1);
  Buffer<T> grad_input(problem.input.size());
  op::BackwardParams backward = problem.backward();
  backward.parts = parts;
  backward.partial_sum = partial_first.data();
  backward.partial_product = partial_second.data();
  backward.batch_statistics = draw(random, 0, 1) == 1;
  backward.grad_offset = grad_offset.data();
  backward.grad_slope = grad_slope.data();
  backward.grad_input = grad_input.data();
  // From the output, where channels can be: BatchNorm is then undone to rounding.
  Buffer<acc_t> origin(s.channels), slope(s.channels);
  const bool from_output = sizeof(T) > 2 && backward.batch_statistics;
  for (int64_t c = 0; c < s.channels; ++c) {
    const BatchNormAffine<acc_t> affine{problem.scale[c], problem.shift[c]};
    const BatchNormInverse<acc_t> inverse = batch_norm_inverse(problem.mean[c], affine);
    origin[c] = inverse.origin;
    const bool good = inverts(affine, inverse, acc_t(1));
    slope[c] = good ? inverse.slope : std::numeric_limits<acc_t>::quiet_NaN();
    backward.by_input = backward.by_input || !good;
  }
  if (from_output) {
    backward.output = problem.pooled.data();
    backward.origin = origin.data();
    backward.slope = slope.data();
    wide_sums[backward.by_input] += s.channels >= 16;
  }
  const double rounding = from_output ? 1e-6 : 0;
  clear();
  on_threads(parts, 2, [&](int64_t begin, int64_t end) { op::backward_reduce(E::kDType, backward, begin, end); });
  if (backward.batch_statistics) {
    on_threads(s.pooled_rows(), 3,
               [&](int64_t begin, int64_t end) { op::backward_input(E::kDType, backward, begin, end); });
  }
  for (int64_t c = 0; c < s.channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t part = 0; part < parts; ++part) {
      sum += partial_first[part * s.channels + c];
      product += partial_second[part * s.channels + c];
    }
    CHECK(sum == problem.sum[static_cast<size_t>(c)], "sum %g", sum);
    CHECK(std::abs(product - problem.product[static_cast<size_t>(c)]) <=
              rounding * problem.magnitude[static_cast<size_t>(c)],
          "product %g", product);
  }
  problem.check_grad_input(backward.batch_statistics, grad_offset, grad_slope, grad_input, 0);
}

void test() {
  Random random(1);
  wide_sums[0] = wide_sums[1] = 0;
  for (int i = 0; i < 40; ++i) {
    for_every_dtype([&](auto, auto zero) {
      max_pool<decltype(zero)>(random);
      fused_pool<decltype(zero)>(random);
    });
  }
  CHECK(wide_sums[0] > 0 && wide_sums[1] > 0, "sums from outputs were not tested");
  every_half_value<bfloat16>();
  every_half_value<half>();
}

}  // namespace

int main() {
  return at_every_level(test);
}
