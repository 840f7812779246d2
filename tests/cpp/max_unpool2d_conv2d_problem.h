// A random problem for max_unpool2d_conv2d on integer values, with any bytes as codes, and its results by definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "max_unpool2d_conv2d/max_unpool2d_conv2d_shape.h"
#include "testing.h"

namespace segnet_ext::testing {

namespace op = segnet_ext::max_unpool2d_conv2d;

template <class T>
struct Problem {
  using E = Element<T>;

  op::Shape shape;
  Buffer<uint8_t> codes;  // [N, OH, OW, ceil(C / 4)]
  Buffer<T> input;        // [N, OH, OW, C]
  Buffer<T> weight;       // [K, C, k, k]
  Buffer<T> bias;         // [K]
  bool relu;
  Buffer<T> grad_output;  // [N, H, W, K]
  double tolerance = 0;   // of kernels whose products are no integers

  // Sparse enough that no sum leaves the integers that bfloat16 holds.
  Problem(const op::Shape& s, Random& random)
      : shape(s),
        codes(random_bytes(windows() * codes_bytes(s.in_channels), random)),
        input(integers<T>(windows() * s.in_channels, random, -1, 1)),
        weight(integers<T>(s.out_channels * s.in_channels * s.taps(), random, -1, 1)),
        bias(integers<T>(s.out_channels, random)),
        relu(draw(random, 0, 1) == 1),
        grad_output(integers<T>(pixels() * s.out_channels, random, -1, 1)) {}

  int64_t windows() const { return shape.batch * shape.pooled_height * shape.pooled_width; }
  int64_t pixels() const { return shape.batch * shape.height * shape.width; }

  // Calls body(pixel of the output, tap, channel, pooled element) wherever a winner lies under a tap.
  template <class Body>
  void for_pairs(const Body& body) const {
    const op::Shape& s = shape;
    const int64_t bytes = codes_bytes(s.in_channels);
    for (int64_t window = 0; window < windows(); ++window) {
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

  int64_t weight_index(int64_t k, int64_t c, int64_t tap) const {
    return (k * shape.in_channels + c) * shape.taps() + tap;
  }

  void check_output(const Buffer<T>& output) const {
    std::vector<double> expected(static_cast<size_t>(output.size()));
    for (int64_t i = 0; i < output.size(); ++i) {
      expected[static_cast<size_t>(i)] = E::value(bias[i % shape.out_channels]);
    }
    for_pairs([&](int64_t pixel, int64_t tap, int64_t c, int64_t pooled) {
      for (int64_t k = 0; k < shape.out_channels; ++k) {
        expected[static_cast<size_t>(pixel * shape.out_channels + k)] +=
            E::value(input[pooled]) * E::value(weight[weight_index(k, c, tap)]);
      }
    });
    for (double& value : expected) {
      value = relu ? std::max(value, 0.0) : value;
    }
    check_equal("output", output, expected);
  }

  void check_grad_input(const Buffer<T>& grad_input) const {
    std::vector<double> expected(static_cast<size_t>(grad_input.size()), 0.0);
    for_pairs([&](int64_t pixel, int64_t tap, int64_t c, int64_t pooled) {
      for (int64_t k = 0; k < shape.out_channels; ++k) {
        expected[static_cast<size_t>(pooled)] +=
            E::value(grad_output[pixel * shape.out_channels + k]) * E::value(weight[weight_index(k, c, tap)]);
      }
    });
    check_equal("grad_input", grad_input, expected);
  }

  void check_grad_weight(const Buffer<T>& grad_weight) const {
    std::vector<double> expected(static_cast<size_t>(weight.size()), 0.0);
    for_pairs([&](int64_t pixel, int64_t tap, int64_t c, int64_t pooled) {
      for (int64_t k = 0; k < shape.out_channels; ++k) {
        expected[static_cast<size_t>(weight_index(k, c, tap))] +=
            E::value(grad_output[pixel * shape.out_channels + k]) * E::value(input[pooled]);
      }
    });
    check_equal("grad_weight", grad_weight, expected);
  }

  void check_grad_bias(const Buffer<T>& grad_bias) const {
    std::vector<double> expected(static_cast<size_t>(shape.out_channels), 0.0);
    for (int64_t i = 0; i < grad_output.size(); ++i) {
      expected[static_cast<size_t>(i % shape.out_channels)] += E::value(grad_output[i]);
    }
    check_equal("grad_bias", grad_bias, expected);
  }

 private:
  void check_equal(const char* name, const Buffer<T>& actual, const std::vector<double>& expected) const {
    for (int64_t i = 0; i < actual.size(); ++i) {
      const double value = E::value(actual[i]);
      CHECK(std::abs(value - expected[static_cast<size_t>(i)]) <= tolerance, "%s[%lld] is %g, expected %g", name,
            static_cast<long long>(i), value, expected[static_cast<size_t>(i)]);
    }
  }
};

}  // namespace segnet_ext::testing
