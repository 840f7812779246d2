// The CUDA kernels around cuDNN's convolutions, executed on the host, against their definitions on integers: BatchNorm
// and ReLU, the bias, and the values at winners.
#include <algorithm>

#include "bn_relu/bn_relu_kernel.cuh"
#include "conv_bias/conv_bias_kernel.cuh"
#include "host_cuda_testing.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_kernel.cuh"
#include "pools_problem.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

template <class T>
double rectified(const Buffer<T>& input, const Buffer<acc_type<T>>& scale, const Buffer<acc_type<T>>& shift,
                 int64_t i) {
  const int64_t c = i % scale.size();
  return std::max(0.0, Element<T>::value(input[i]) * double(scale[c]) + double(shift[c]));
}

template <class T>
void bn_relu_forward_and_backward(int64_t pixels, int64_t channels, int64_t threads, Random& random) {
  using acc_t = acc_type<T>;
  const auto input = integers<T>(pixels * channels, random), grad_output = integers<T>(input.size(), random);
  const auto mean = integers<acc_t>(channels, random), scale = integers<acc_t>(channels, random);
  const auto shift = integers<acc_t>(channels, random);
  using Norm = ExactNorm<acc_t>;
  const Norm norm(mean, scale, shift);
  Device device;
  const bn_relu_max_pool2d::NormParams norm_params = norm.params(device, mean);
  Buffer<T> output(input.size());
  bn_relu::launch_forward(launcher(), Element<T>::kDType,
                          {pixels, channels, device.read(input), norm_params, device.write(output)}, threads);
  for (int64_t i = 0; i < input.size(); ++i) {
    CHECK(Element<T>::value(output[i]) == rectified(input, scale, shift, i), "output %lld", static_cast<long long>(i));
  }

  Buffer<acc_t> grad_weight(channels), grad_bias(channels), grad_offset(channels), grad_slope(channels);
  Buffer<T> grad_input(input.size());
  bn_relu::BackwardParams params{};
  params.shape = {1, channels, 1, pixels, 0, 0};
  params.grad_output = device.read(grad_output);
  params.input = input.data();
  params.norm = norm_params;
  params.parts = bn_relu::backward_parts(Element<T>::kDType, pixels, channels, threads);
  Buffer<double> partial_sum(params.parts * channels), partial_product(partial_sum.size());
  params.partial_sum = device.write(partial_sum);
  params.partial_product = device.write(partial_product);
  params.grad_weight = device.write(grad_weight);
  params.grad_bias = device.write(grad_bias);
  params.grad_offset = device.write(grad_offset);
  params.grad_slope = device.write(grad_slope);
  params.grad_input = device.write(grad_input);
  params.batch_statistics = draw(random, 0, 1) == 1;
  bn_relu::launch_backward(launcher(), Element<T>::kDType, params, threads);

  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t i = c; i < input.size(); i += channels) {
      const double grad = rectified(input, scale, shift, i) > 0 ? Element<T>::value(grad_output[i]) : 0;
      sum += grad;
      product += grad * (Element<T>::value(input[i]) - double(mean[c]));
    }
    CHECK(double(grad_bias[c]) == sum && double(grad_weight[c]) == Norm::invstd(c) * product,
          "gradients of channel %lld", static_cast<long long>(c));
    for (int64_t i = c; i < input.size(); i += channels) {
      double grad = rectified(input, scale, shift, i) > 0 ? Element<T>::value(grad_output[i]) : 0;
      double terms = std::abs(grad);
      if (params.batch_statistics) {
        const double projected = (Element<T>::value(input[i]) - double(mean[c])) * Norm::invstd(c) * Norm::invstd(c) *
                                 product / static_cast<double>(pixels);
        grad -= sum / static_cast<double>(pixels) + projected;
        terms += std::abs(sum / static_cast<double>(pixels)) + std::abs(projected);
      }
      const double tolerance = !params.batch_statistics ? 0 : (sizeof(T) > 2 ? 1e-6 : 1e-2);
      const double error = std::abs(Element<T>::value(grad_input[i]) - grad * double(scale[c]));
      CHECK(error <= tolerance * terms * std::abs(double(scale[c])), "gradient %lld", static_cast<long long>(i));
    }
  }
}

template <class T>
void bias(int64_t pixels, int64_t channels, int64_t threads, Random& random) {
  const auto map = integers<T>(pixels * channels, random), vector = integers<T>(channels, random);
  for (const bool relu : {false, true}) {
    for (const bool with_bias : {false, true}) {
      Buffer<T> result(map.size());
      Device device;
      conv_bias::launch_add(
          launcher(), Element<T>::kDType,
          {pixels, channels, with_bias ? device.read(vector) : nullptr, relu, device.read(map), device.write(result)},
          threads);
      for (int64_t i = 0; i < map.size(); ++i) {
        const double sum = Element<T>::value(map[i]) + (with_bias ? Element<T>::value(vector[i % channels]) : 0);
        CHECK(Element<T>::value(result[i]) == Element<T>::value(Element<T>::of(relu ? std::max(0.0, sum) : sum)),
              "sum %lld", static_cast<long long>(i));
      }
    }
  }

  conv_bias::GradParams params{};
  params.pixels = pixels;
  params.channels = channels;
  params.parts = conv_bias::grad_parts(Element<T>::kDType, pixels, channels, threads);
  Buffer<acc_type<T>> partial(params.parts * channels);
  Buffer<T> grad_bias(channels);
  Device device;
  params.grad_output = device.read(map);
  params.partial = device.write(partial);
  params.grad_bias = device.write(grad_bias);
  launch_grad(launcher(), Element<T>::kDType, params, threads);
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0;
    for (int64_t i = c; i < map.size(); i += channels) {
      sum += Element<T>::value(map[i]);
    }
    CHECK(Element<T>::value(grad_bias[c]) == Element<T>::value(Element<T>::of(sum)), "grad_bias %g, expected %g",
          Element<T>::value(grad_bias[c]), sum);
  }
}

template <class T>
void gather(const PoolShape& s, int64_t threads, Random& random) {
  const auto map = integers<T>(s.pixels() * s.channels, random);
  const auto codes = random_bytes(windows_of(s) * codes_bytes(s.channels), random);
  Buffer<T> output(windows_of(s) * s.channels);
  Device device;
  max_pool2d_with_codes::launch_gather(launcher(), Element<T>::kDType,
                                       {s, device.read(map), device.read(codes), device.write(output)}, threads);
  for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    int64_t row, col;
    winner_of(codes.data() + window * codes_bytes(s.channels), c, oh, ow, s.height, s.width, row, col);
    CHECK(Element<T>::value(output[window * s.channels + c]) == Element<T>::value(map[element(s, n, row, col, c)]),
          "winner of window %lld", static_cast<long long>(window));
  });
}

}  // namespace

int main() {
  Random random(1);
  for_every_dtype([&](auto, auto zero) {
    using T = decltype(zero);
    for (const int64_t channels : kChannelsTried) {
      for (const int64_t threads : kThreadsTried) {
        bn_relu_forward_and_backward<T>(draw(random, 1, 200), channels, threads, random);
        bias<T>(draw(random, 1, 200), channels, threads, random);
        gather<T>(random_shape(random, channels), threads, random);
      }
    }
    // Several tiles of channels, the last of them narrower, and more pixels than a block has.
    bn_relu_forward_and_backward<T>(700, 33 * cuda::kVectorChannels<T>, 1, random);
    bias<T>(700, 33 * cuda::kVectorChannels<T>, cuda::kThreadsToFill, random);
  });
  std::puts("ok");
  return 0;
}
