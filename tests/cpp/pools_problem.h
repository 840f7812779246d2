// Random problems for the pool kernels and the checks of their answers against the definitions, on integer values,
// where all arithmetic is exact.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_params.h"
#include "common/pool_shape.h"
#include "testing.h"

namespace segnet_ext::testing {

// In floor or in ceil mode, each for itself in the two dimensions: unpooling may be asked for any output_size.
inline PoolShape random_shape(Random& random, int64_t channels) {
  PoolShape s{};
  s.batch = draw(random, 1, 4);
  s.channels = channels;
  const auto draw_size = [&](int64_t& size, int64_t& pooled) {
    const bool ceil_mode = draw(random, 0, 1) == 1;
    size = draw(random, ceil_mode ? 1 : 2, 9);
    pooled = pooled_size(size, ceil_mode);
  };
  draw_size(s.height, s.pooled_height);
  draw_size(s.width, s.pooled_width);
  return s;
}

inline int64_t windows_of(const PoolShape& s) {
  return s.pooled_rows() * s.pooled_width;
}

inline int64_t element(const PoolShape& s, int64_t n, int64_t row, int64_t col, int64_t c) {
  return ((n * s.height + row) * s.width + col) * s.channels + c;
}

// Calls body(n, oh, ow, c, window) for every window and channel.
template <class Body>
void for_windows(const PoolShape& s, const Body& body) {
  for (int64_t window = 0; window < windows_of(s); ++window) {
    const int64_t ow = window % s.pooled_width, row = window / s.pooled_width;
    for (int64_t c = 0; c < s.channels; ++c) {
      body(row / s.pooled_height, row % s.pooled_height, ow, c, window);
    }
  }
}

inline bool same(double a, double b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

// The first of a window's largest values, or its last NaN, in row-major order.
template <class Value>
int expected_code(const PoolShape& s, int64_t oh, int64_t ow, const Value& value) {
  int best = 0;
  for (int place = 1; place < 4; ++place) {
    const int64_t row = 2 * oh + (place >> 1), col = 2 * ow + (place & 1);
    if (row < s.height && col < s.width) {
      const double candidate = value(row, col), so_far = value(2 * oh + (best >> 1), 2 * ow + (best & 1));
      best = candidate > so_far || std::isnan(candidate) ? place : best;
    }
  }
  return best;
}

// Is `output` the pooled map of value(n, row, col, c), and `codes` the winners' codes, with zero pad bits?
template <class T, class Value>
void check_pooled(const PoolShape& s, const Value& value, const Buffer<T>& output, const Buffer<uint8_t>& codes) {
  const int64_t bytes = codes_bytes(s.channels);
  for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    const auto at = [&](int64_t row, int64_t col) { return value(n, row, col, c); };
    const int code = expected_code(s, oh, ow, at);
    CHECK(get_code(codes.data() + window * bytes, c) == code, "channel %lld", static_cast<long long>(c));
    CHECK(same(Element<T>::value(output[window * s.channels + c]), at(2 * oh + (code >> 1), 2 * ow + (code & 1))),
          "output of window %lld", static_cast<long long>(window));
  });
  for (int64_t window = 0; s.channels % 4 != 0 && window < windows_of(s); ++window) {
    const int last = codes[window * bytes + bytes - 1];
    CHECK(last >> 2 * (s.channels % 4) == 0, "pad bits of window %lld", static_cast<long long>(window));
  }
}

template <class T>
void check_max_pool(const PoolShape& s, const Buffer<T>& input, const Buffer<T>& output, const Buffer<uint8_t>& codes) {
  const auto value = [&](int64_t n, int64_t row, int64_t col, int64_t c) {
    return Element<T>::value(input[element(s, n, row, col, c)]);
  };
  check_pooled(s, value, output, codes);
}

template <class T>
void check_max_pool_backward(const PoolShape& s, const Buffer<T>& grad_output, const Buffer<uint8_t>& codes,
                             const Buffer<T>& grad_input) {
  std::vector<double> expected(static_cast<size_t>(grad_input.size()), 0.0);
  for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    int64_t row, col;
    winner_of(codes.data() + window * codes_bytes(s.channels), c, oh, ow, s.height, s.width, row, col);
    expected[static_cast<size_t>(element(s, n, row, col, c))] = Element<T>::value(grad_output[window * s.channels + c]);
  });
  for (int64_t i = 0; i < grad_input.size(); ++i) {
    CHECK(same(Element<T>::value(grad_input[i]), expected[static_cast<size_t>(i)]), "gradient %lld",
          static_cast<long long>(i));
  }
}

// Are these the mean and the biased variance of each channel, to `tolerance`? A mean near zero may be off by a
// hundredth of that in deviations.
template <class T>
void check_stats(int64_t pixels, const Buffer<T>& input, const Buffer<acc_type<T>>& mean,
                 const Buffer<acc_type<T>>& var, double tolerance) {
  const int64_t channels = mean.size();
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, squares = 0;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      sum += Element<T>::value(input[pixel * channels + c]);
    }
    const double expected = sum / static_cast<double>(pixels);
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const double deviation = Element<T>::value(input[pixel * channels + c]) - expected;
      squares += deviation * deviation;
    }
    const double variance = squares / static_cast<double>(pixels);
    const double mean_error = std::abs(double(mean[c]) - expected);
    const double mean_limit = tolerance * (std::abs(expected) + 0.01 * std::sqrt(variance));
    CHECK(!(mean_error > mean_limit) && std::isfinite(mean_error), "mean %g, expected %g", double(mean[c]), expected);
    const double var_error = std::abs(double(var[c]) - variance);
    CHECK(var_error <= tolerance * variance, "variance %.9g, expected %.9g", double(var[c]), variance);
  }
}

// BatchNorm, ReLU and pool with integers for parameters, and any bytes for the codes of backward.
template <class T>
struct FusedProblem {
  using E = Element<T>;
  using acc_t = acc_type<T>;

  PoolShape s;
  Buffer<T> input, grad_output;
  Buffer<acc_t> mean, scale, shift;
  Buffer<uint8_t> codes;
  Buffer<T> pooled;  // what forward would give if these codes were its own
  // The gradient that reaches a pixel; its sums over each channel; the sum of the products' magnitudes.
  std::vector<double> reached, sum, product, magnitude;

  // With no scale of zero if `invertible`.
  FusedProblem(const PoolShape& shape, bool invertible, Random& random)
      : s(shape),
        input(integers<T>(s.pixels() * s.channels, random)),
        grad_output(integers<T>(windows_of(s) * s.channels, random)),
        mean(integers<acc_t>(s.channels, random)),
        scale(scales(s.channels, invertible, random)),
        shift(integers<acc_t>(s.channels, random)),
        codes(random_bytes(windows_of(s) * codes_bytes(s.channels), random)),
        pooled(grad_output.size()),
        reached(static_cast<size_t>(input.size()), 0.0),
        sum(static_cast<size_t>(s.channels), 0.0),
        product(static_cast<size_t>(s.channels), 0.0),
        magnitude(static_cast<size_t>(s.channels), 0.0) {
    for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
      int64_t row, col;
      winner_of(codes.data() + window * codes_bytes(s.channels), c, oh, ow, s.height, s.width, row, col);
      pooled[window * s.channels + c] = E::of(rectified(n, row, col, c));
      const double grad = rectified(n, row, col, c) > 0 ? E::value(grad_output[window * s.channels + c]) : 0;
      const int64_t at = element(s, n, row, col, c);
      const double term = grad * (E::value(input[at]) - double(mean[c]));
      reached[static_cast<size_t>(at)] = grad;
      sum[static_cast<size_t>(c)] += grad;
      product[static_cast<size_t>(c)] += term;
      magnitude[static_cast<size_t>(c)] += std::abs(term);
    });
  }

  static Buffer<acc_t> scales(int64_t channels, bool invertible, Random& random) {
    Buffer<acc_t> scale = integers<acc_t>(channels, random);
    for (int64_t c = 0; invertible && c < channels; ++c) {
      scale[c] = scale[c] == 0 ? acc_t(1) : scale[c];
    }
    return scale;
  }

  bn_relu_max_pool2d::ForwardParams forward(Buffer<T>& output, Buffer<uint8_t>& winners) const {
    return {s, input.data(), scale.data(), shift.data(), output.data(), winners.data()};
  }
  // All but the sums, the means and grad_input.
  bn_relu_max_pool2d::BackwardParams backward() const {
    bn_relu_max_pool2d::BackwardParams params{};
    params.shape = s;
    params.grad_output = grad_output.data();
    params.input = input.data();
    params.codes = codes.data();
    params.mean = mean.data();
    params.scale = scale.data();
    params.shift = shift.data();
    return params;
  }

  double rectified(int64_t n, int64_t row, int64_t col, int64_t c) const {
    const double x = E::value(input[element(s, n, row, col, c)]);
    return std::max(0.0, x * double(scale[c]) + double(shift[c]));
  }

  void check_output(const Buffer<T>& output, const Buffer<uint8_t>& winners) const {
    check_pooled(
        s, [&](int64_t n, int64_t row, int64_t col, int64_t c) { return rectified(n, row, col, c); }, output, winners);
  }

  // `tolerance` of the terms' magnitude, for an offset and a slope that are no integers.
  void check_grad_input(bool batch_statistics, const Buffer<acc_t>& grad_offset, const Buffer<acc_t>& grad_slope,
                        const Buffer<T>& grad_input, double tolerance) const {
    for (int64_t i = 0; i < grad_input.size(); ++i) {
      const int64_t c = i % s.channels;
      double expected = reached[static_cast<size_t>(i)] * double(scale[c]), terms = std::abs(expected);
      if (batch_statistics) {
        const double sloped = (E::value(input[i]) - double(mean[c])) * double(grad_slope[c]);
        expected += double(grad_offset[c]) + sloped;
        terms += std::abs(double(grad_offset[c])) + std::abs(sloped);
      }
      const double error = std::abs(E::value(grad_input[i]) - expected);
      CHECK(error <= tolerance * terms, "gradient %g, expected %g", E::value(grad_input[i]), expected);
    }
  }
};

}  // namespace segnet_ext::testing
