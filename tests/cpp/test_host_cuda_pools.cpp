// The CUDA kernels of the pools and of the codes, executed on the host, against their definitions.
#include <algorithm>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_kernel.cuh"
#include "codes_to_indices/codes_to_indices_kernel.cuh"
#include "host_cuda_testing.h"
#include "indices_to_codes/indices_to_codes_kernel.cuh"
#include "max_pool2d_with_codes/max_pool2d_with_codes_kernel.cuh"
#include "pools_problem.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

template <class T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();
template <>
constexpr bfloat16 kNan<bfloat16>{0x7fc0};
template <>
constexpr half kNan<half>{0x7e00};

template <class T>
void max_pool(const PoolShape& s, int64_t threads, Random& random) {
  auto input = integers<T>(s.pixels() * s.channels, random);
  for (int64_t i = draw(random, 0, 20); i < input.size(); i += draw(random, 1, 40)) {
    input[i] = kNan<T>;
  }
  Buffer<T> output(windows_of(s) * s.channels);
  Buffer<uint8_t> codes(windows_of(s) * codes_bytes(s.channels));
  Device device;
  launch_forward(launcher(), Element<T>::kDType,
                 max_pool2d_with_codes::ForwardParams{s, device.read(input), device.write(output), device.write(codes)},
                 threads);
  check_max_pool(s, input, output, codes);

  const auto any = random_bytes(codes.size(), random);
  const auto grad_output = integers<T>(output.size(), random);
  Buffer<T> grad_input(input.size());
  launch_backward(
      launcher(), Element<T>::kDType,
      max_pool2d_with_codes::BackwardParams{s, device.read(grad_output), device.read(any), device.write(grad_input)},
      threads);
  check_max_pool_backward(s, grad_output, any, grad_input);
}

int whole_groups = 0;  // of channels whose sums came from the output

template <class T>
void fused_pool(const PoolShape& s, int64_t threads, Random& random) {
  using acc_t = acc_type<T>;
  namespace op = bn_relu_max_pool2d;
  const FusedProblem<T> problem(s, draw(random, 0, 1) == 1, random);
  Device device;
  using Norm = ExactNorm<acc_t>;
  const Norm norm(problem.mean, problem.scale, problem.shift);
  const op::NormParams norm_params = norm.params(device, problem.mean);

  Buffer<T> output(windows_of(s) * s.channels);
  Buffer<uint8_t> codes(windows_of(s) * codes_bytes(s.channels));
  launch_forward(
      launcher(), Element<T>::kDType,
      op::NormedForwardParams{s, device.read(problem.input), norm_params, device.write(output), device.write(codes)},
      threads);
  problem.check_output(output, codes);

  Buffer<acc_t> grad_weight(s.channels), grad_bias(s.channels), grad_offset(s.channels), grad_slope(s.channels);
  Buffer<T> grad_input(problem.input.size());
  op::NormedBackwardParams params{};
  params.shape = s;
  params.grad_output = device.read(problem.grad_output);
  params.input = problem.input.data();
  params.codes = device.read(problem.codes);
  const bool from_output = sizeof(T) > 2 && draw(random, 0, 1) == 1;
  params.output = from_output ? device.read(problem.pooled) : nullptr;
  int good = 0;
  for (int64_t c = 0; from_output && c < s.channels; ++c) {
    const BatchNormAffine<acc_t> affine{problem.scale[c], problem.shift[c]};
    good = inverts(affine, batch_norm_inverse(problem.mean[c], affine), norm.var[c]) ? good + 1 : 0;
    whole_groups += good >= 2 * cuda::kVectorChannels<T>;  // however these lie, a group is among them
  }
  params.norm = norm_params;
  params.batch_statistics = from_output || draw(random, 0, 1) == 1;
  params.parts = op::backward_parts(Element<T>::kDType, s, threads);
  Buffer<double> partial_sum(params.parts * s.channels), partial_product(partial_sum.size());
  params.partial_sum = device.write(partial_sum);
  params.partial_product = device.write(partial_product);
  params.grad_offset = device.write(grad_offset);
  params.grad_slope = device.write(grad_slope);
  params.grad_input = device.write(grad_input);
  params.grad_weight = device.write(grad_weight);
  params.grad_bias = device.write(grad_bias);
  launch_backward(launcher(), Element<T>::kDType, params, threads);
  const auto pixels = static_cast<double>(s.pixels());
  const auto check_near = [&](const char* name, acc_t actual, double expected, double terms) {
    CHECK(std::abs(double(actual) - expected) <= 1e-6 * terms, "%s %g, expected %g", name, double(actual), expected);
  };
  const auto check = [&](const char* name, acc_t actual, double expected) {
    check_near(name, actual, expected, std::abs(expected));
  };
  for (int64_t c = 0; c < s.channels; ++c) {
    const double sum = problem.sum[static_cast<size_t>(c)], product = problem.product[static_cast<size_t>(c)];
    check("grad_bias", grad_bias[c], sum);
    // BatchNorm is undone to rounding.
    const double terms = from_output ? problem.magnitude[static_cast<size_t>(c)] : std::abs(product);
    check_near("grad_weight", grad_weight[c], product * Norm::invstd(c), terms * Norm::invstd(c));
    const double scale = problem.scale[c], slope = -scale * Norm::invstd(c) * Norm::invstd(c) / pixels;
    check("grad_offset", grad_offset[c], -scale * sum / pixels);
    check_near("grad_slope", grad_slope[c], product * slope, terms * std::abs(slope));
  }
  const double tolerance = sizeof(T) > 2 ? 1e-6 : 1e-2;
  problem.check_grad_input(params.batch_statistics, grad_offset, grad_slope, grad_input,
                           params.batch_statistics ? tolerance : 0);
}

// Integers, also far from zero, and one value alone among equals: none may lose more than a few roundings.
template <class T>
void stats(int64_t pixels, int64_t channels, int64_t threads, Random& random) {
  using acc_t = acc_type<T>;
  namespace op = bn_relu_max_pool2d;
  Buffer<T> input(pixels * channels);
  for (int64_t i = 0; i < input.size(); ++i) {
    const bool far = sizeof(T) > 2 && i % channels % 3 == 1;
    const bool alone = i % channels % 3 == 2;
    const double value = static_cast<double>(draw(random, -2, 2));
    input[i] = Element<T>::of(far ? 100000 + value / 4 : (alone ? (i < channels ? 64 : 1) : value));
  }
  Buffer<acc_t> mean(channels), var(channels);
  op::TwoStageStatsParams params{};
  params.pixels = pixels;
  params.channels = channels;
  params.parts = op::stats_parts(Element<T>::kDType, pixels, channels, threads);
  Buffer<acc_t> partial_sum(params.parts * channels), partial_rest(partial_sum.size());
  Buffer<acc_t> partial_squares(partial_sum.size());
  Device device;
  params.input = device.read(input);
  params.partial_sum = device.write(partial_sum);
  params.partial_rest = device.write(partial_rest);
  params.partial_squares = device.write(partial_squares);
  params.mean = device.write(mean);
  params.var = device.write(var);
  launch_stats(launcher(), Element<T>::kDType, params, threads);
  check_stats(pixels, input, mean, var, 2e-6);
}

template <class acc_t>
void running_stats(int64_t channels, Random& random) {
  namespace op = bn_relu_max_pool2d;
  const auto mean = integers<acc_t>(channels, random), var = integers<acc_t>(channels, random);
  const auto running_mean = integers<acc_t>(channels, random), running_var = integers<acc_t>(channels, random);
  for (const double momentum : {0.25, 0.75, 1.0}) {  // torch.lerp has a formula for each half
    Buffer<acc_t> moved_mean(channels), moved_var(channels);
    Device device;
    op::launch_running_stats(launcher(), Element<acc_t>::kDType,
                             {channels, momentum, 1.5, device.read(mean), device.read(var), device.read(running_mean),
                              device.read(running_var), device.write(moved_mean), device.write(moved_var)});
    for (int64_t c = 0; c < channels; ++c) {
      CHECK(double(moved_mean[c]) == (1 - momentum) * double(running_mean[c]) + momentum * double(mean[c]), "mean %g",
            double(moved_mean[c]));
      CHECK(double(moved_var[c]) == (1 - momentum) * double(running_var[c]) + momentum * 1.5 * double(var[c]),
            "variance %g", double(moved_var[c]));
    }
  }
}

bool to_codes(const PoolShape& s, const Buffer<int64_t>& indices, Buffer<uint8_t>& codes, int64_t threads) {
  Buffer<int> outside(1);
  Device device;
  indices_to_codes_impl::launch(launcher(), {s, device.read(indices), device.write(codes), device.write(outside)},
                                threads);
  CHECK(outside[0] == 0 || outside[0] == 1, "flag %d", outside[0]);
  return outside[0] == 0;
}

void code_indices(const PoolShape& s, int64_t threads, Random& random) {
  const auto any = random_bytes(windows_of(s) * codes_bytes(s.channels), random);
  Buffer<int64_t> indices(windows_of(s) * s.channels);
  {
    Device device;
    codes_to_indices_impl::launch(launcher(), {s, device.read(any), device.write(indices)}, threads);
  }
  Buffer<uint8_t> codes(any.size());
  CHECK(to_codes(s, indices, codes, threads), "indices are refused");
  for_windows(s, [&](int64_t, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    int64_t row, col;
    winner_of(any.data() + window * codes_bytes(s.channels), c, oh, ow, s.height, s.width, row, col);
    CHECK(indices[window * s.channels + c] == row * s.width + col, "index of window %lld",
          static_cast<long long>(window));
    const int code = static_cast<int>(2 * (row - 2 * oh) + col - 2 * ow);
    CHECK(get_code(codes.data() + window * codes_bytes(s.channels), c) == code, "code of window %lld",
          static_cast<long long>(window));
  });
  const int64_t bytes = codes_bytes(s.channels);
  for (int64_t window = 0; s.channels % 4 != 0 && window < windows_of(s); ++window) {
    CHECK(codes[window * bytes + bytes - 1] >> 2 * (s.channels % 4) == 0, "pad bits");
  }

  const int64_t at = draw(random, 0, indices.size() - 1), index = indices[at];
  const int64_t ow = at / s.channels % s.pooled_width, oh = at / s.channels / s.pooled_width % s.pooled_height;
  const int64_t row = index / s.width, col = index % s.width;
  std::vector<int64_t> wrong{
      -1, INT64_MIN, INT64_MAX, s.height * s.width, (2 * oh - 1) * s.width + col, (2 * oh + 2) * s.width + col};
  if (ow > 0) {
    wrong.push_back(row * s.width + 2 * ow - 1);
  }
  wrong.push_back(row * s.width + 2 * ow + 2);
  if (2 * ow + 1 == s.width && 2 * oh + 1 == s.height) {
    wrong.push_back(index + 1);
  }
  for (const int64_t value : wrong) {
    if (s.width > 2 || s.height * s.width <= value || value < 0) {  // where no other row of the window starts there
      indices[at] = value;
      CHECK(!to_codes(s, indices, codes, threads), "index %lld", static_cast<long long>(value));
    }
  }
}

// A buffer that starts one element after an aligned address: the vector accesses of whole channels must not be used.
template <class T>
void misaligned(Random& random) {
  const PoolShape s{1, 16, 4, 6, 2, 3};
  const auto storage = integers<T>(s.pixels() * s.channels + 1, random);
  Buffer<T> output(windows_of(s) * s.channels), same_output(output.size());
  Buffer<uint8_t> codes(windows_of(s) * codes_bytes(s.channels)), same_codes(codes.size());
  Buffer<T> copy(storage.size() - 1);
  std::copy_n(storage.data() + 1, copy.size(), copy.data());
  Device device;
  device.read(storage);
  launch_forward(
      launcher(), Element<T>::kDType,
      max_pool2d_with_codes::ForwardParams{s, storage.data() + 1, device.write(output), device.write(codes)});
  launch_forward(
      launcher(), Element<T>::kDType,
      max_pool2d_with_codes::ForwardParams{s, device.read(copy), device.write(same_output), device.write(same_codes)});
  CHECK(output.same_bytes(same_output) && codes.same_bytes(same_codes), "the same values from another address");
}

}  // namespace

int main() {
  Random random(1);
  for (const int64_t channels : kChannelsTried) {
    for (const int64_t threads : kThreadsTried) {
      for (int i = 0; i < 4; ++i) {
        for_every_dtype([&](auto, auto zero) {
          using T = decltype(zero);
          max_pool<T>(random_shape(random, channels), threads, random);
          fused_pool<T>(random_shape(random, channels), threads, random);
          stats<T>(draw(random, 2, 300), channels, threads, random);
        });
        code_indices(random_shape(random, channels), threads, random);
      }
    }
    running_stats<float>(channels, random);
    running_stats<double>(channels, random);
  }
  for_every_dtype([&](auto, auto zero) {
    using T = decltype(zero);
    misaligned<T>(random);
    // Several tiles of channels, the last of them narrower, and more rows than a block has.
    max_pool<T>({1, 33 * cuda::kVectorChannels<T>, 2, 43, 1, 21}, 1, random);
    fused_pool<T>({2, 33 * cuda::kVectorChannels<T>, 3, 42, 2, 21}, cuda::kThreadsToFill, random);
    stats<T>(3000, 33 * cuda::kVectorChannels<T>, 1, random);
    stats<T>(20000, 3, 1, random);
  });
  CHECK(whole_groups > 0, "sums from outputs were not tested");
  std::puts("ok");
  return 0;
}
