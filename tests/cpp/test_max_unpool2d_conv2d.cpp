// The kernels of max_unpool2d_conv2d against their definitions on integer values, with any bytes as codes.
#include <algorithm>

#include "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_kernel.h"
#include "testing.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;
namespace op = segnet_ext::max_unpool2d_conv2d;

namespace {

op::Shape random_shape(Random& random) {
  op::Shape s{};
  s.batch = draw(random, 1, 2);
  s.in_channels = draw(random, 1, 24);
  s.out_channels = draw(random, 0, 3) == 0 ? draw(random, 60, 70) : draw(random, 1, 24);
  s.pooled_height = draw(random, 1, 10);
  s.pooled_width = draw(random, 1, 10);
  s.height = 2 * s.pooled_height + draw(random, -1, 1);
  s.width = 2 * s.pooled_width + draw(random, -1, 1);
  s.kernel_size = 2 * draw(random, 0, 3) + 1;
  return s;
}

template <class T>
Buffer<acc_type<T>> packed(const op::Shape& s, const op::ChannelBlocks& blocks, bool flip, const Buffer<T>& weight) {
  Buffer<acc_type<T>> to(blocks.count * s.in_channels * s.taps() * blocks.width);
  op::pack_weight(Element<T>::kDType, s, blocks, flip, weight.data(), to.data());
  return to;
}

// Calls body(pixel of the output, tap, channel, pooled element) wherever a winner lies under a tap.
template <class Body>
void for_pairs(const op::Shape& s, const Buffer<uint8_t>& codes, const Body& body) {
  const int64_t bytes = codes_bytes(s.in_channels);
  for (int64_t window = 0; window < s.batch * s.pooled_height * s.pooled_width; ++window) {
    const int64_t ow = window % s.pooled_width, oh = window / s.pooled_width % s.pooled_height;
    const int64_t n = window / s.pooled_width / s.pooled_height;
    for (int64_t c = 0; c < s.in_channels; ++c) {
      int64_t row, col;
      winner_of(codes.data() + window * bytes, c, oh, ow, s.height, s.width, row, col);
      for (int64_t tap = 0; tap < s.taps(); ++tap) {
        const int64_t y = row - (tap / s.kernel_size - s.radius()), x = col - (tap % s.kernel_size - s.radius());
        if (y >= 0 && y < s.height && x >= 0 && x < s.width) {
          body((n * s.height + y) * s.width + x, tap, c, window * s.in_channels + c);
        }
      }
    }
  }
}

template <class T>
void check_equal(const char* name, const Buffer<T>& actual, const std::vector<double>& expected) {
  for (int64_t i = 0; i < actual.size(); ++i) {
    const double value = Element<T>::value(actual[i]);
    CHECK(value == expected[static_cast<size_t>(i)], "%s[%lld] is %g, expected %g", name, static_cast<long long>(i),
          value, expected[static_cast<size_t>(i)]);
  }
}

template <class T>
void run(Random& random) {
  using E = Element<T>;
  using acc_t = acc_type<T>;
  const op::Shape s = random_shape(random);
  const int64_t windows = s.batch * s.pooled_height * s.pooled_width, pixels = s.batch * s.height * s.width;
  const auto codes = random_bytes(windows * codes_bytes(s.in_channels), random);
  // Sparse enough that no sum leaves the integers that bfloat16 holds.
  auto input = integers<T>(windows * s.in_channels, random, -1, 1);
  auto grad_output = integers<T>(pixels * s.out_channels, random, -1, 1);
  const auto weight = integers<T>(s.out_channels * s.in_channels * s.taps(), random, -1, 1);
  const auto weight_at = [&](int64_t k, int64_t c, int64_t tap) {
    return E::value(weight[(k * s.in_channels + c) * s.taps() + tap]);
  };

  const bool relu = draw(random, 0, 1) == 1;
  const op::ChannelBlocks blocks = op::forward_blocks(E::kDType, s);
  CHECK(blocks.count * blocks.width >= s.out_channels, "blocks cover the channels");
  auto bias = integers<acc_t>(blocks.count * blocks.width, random);
  std::fill(bias.data() + s.out_channels, bias.data() + bias.size(), acc_t(0));
  const auto forward_weight = packed<T>(s, blocks, false, weight);
  for (const int64_t threads : {1, 3}) {
    Buffer<T> output(pixels * s.out_channels);
    const op::ForwardParams params{s,           blocks, input.data(), codes.data(), forward_weight.data(),
                                   bias.data(), relu,   output.data()};
    on_threads(op::forward_tasks(s), threads,
               [&](int64_t begin, int64_t end) { op::forward(E::kDType, params, begin, end); });
    std::vector<double> expected(static_cast<size_t>(output.size()));
    for (int64_t i = 0; i < output.size(); ++i) {
      expected[static_cast<size_t>(i)] = double(bias[i % s.out_channels]);
    }
    for_pairs(s, codes, [&](int64_t pixel, int64_t tap, int64_t c, int64_t pooled) {
      for (int64_t k = 0; k < s.out_channels; ++k) {
        expected[static_cast<size_t>(pixel * s.out_channels + k)] += E::value(input[pooled]) * weight_at(k, c, tap);
      }
    });
    for (double& value : expected) {
      value = relu ? std::max(value, 0.0) : value;
    }
    check_equal("output", output, expected);
  }

  const op::ChannelBlocks input_blocks = op::grad_input_blocks(E::kDType, s);
  const auto flipped = packed<T>(s, input_blocks, true, weight);
  for (const int64_t threads : {1, 3}) {
    Buffer<T> grad_input(windows * s.in_channels);
    const op::GradInputParams params{
        s, input_blocks, grad_output.data(), codes.data(), flipped.data(), grad_input.data()};
    on_threads(op::grad_input_tasks(s), threads,
               [&](int64_t begin, int64_t end) { op::grad_input(E::kDType, params, begin, end); });
    std::vector<double> expected(static_cast<size_t>(grad_input.size()), 0.0);
    for_pairs(s, codes, [&](int64_t pixel, int64_t tap, int64_t c, int64_t pooled) {
      for (int64_t k = 0; k < s.out_channels; ++k) {
        expected[static_cast<size_t>(pooled)] +=
            E::value(grad_output[pixel * s.out_channels + k]) * weight_at(k, c, tap);
      }
    });
    check_equal("grad_input", grad_input, expected);
  }

  const op::ChannelBlocks weight_blocks = op::grad_weight_blocks(E::kDType, s);
  for (const int64_t threads : {1, 3}) {
    Buffer<T> grad_weight(weight.size()), grad_bias(s.out_channels);
    const op::GradWeightParams params{
        s, weight_blocks, grad_output.data(), input.data(), codes.data(), grad_weight.data()};
    on_threads(op::grad_weight_tasks(s, weight_blocks), threads,
               [&](int64_t begin, int64_t end) { op::grad_weight(E::kDType, params, begin, end); });
    const op::GradBiasParams bias_params{s, grad_output.data(), grad_bias.data()};
    on_threads(op::grad_bias_tasks(s), threads,
               [&](int64_t begin, int64_t end) { op::grad_bias(E::kDType, bias_params, begin, end); });
    std::vector<double> expected(static_cast<size_t>(weight.size()), 0.0);
    std::vector<double> expected_bias(static_cast<size_t>(s.out_channels), 0.0);
    for_pairs(s, codes, [&](int64_t pixel, int64_t tap, int64_t c, int64_t pooled) {
      for (int64_t k = 0; k < s.out_channels; ++k) {
        expected[static_cast<size_t>((k * s.in_channels + c) * s.taps() + tap)] +=
            E::value(grad_output[pixel * s.out_channels + k]) * E::value(input[pooled]);
      }
    });
    for (int64_t i = 0; i < grad_output.size(); ++i) {
      expected_bias[static_cast<size_t>(i % s.out_channels)] += E::value(grad_output[i]);
    }
    check_equal("grad_weight", grad_weight, expected);
    check_equal("grad_bias", grad_bias, expected_bias);
  }
}

void test() {
  Random random(1);
  for (int i = 0; i < 12; ++i) {
    for_every_dtype([&](auto, auto zero) { run<decltype(zero)>(random); });
  }
}

}  // namespace

int main() {
  return at_every_level(test);
}
