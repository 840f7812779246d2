// The pool kernels against their definitions on integer values, where all arithmetic is exact; backward on any bytes.
#include <algorithm>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_cpu_kernel.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_cpu_kernel.h"
#include "testing.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

PoolShape random_shape(Random& random) {
  const bool ceil_mode = draw(random, 0, 1) == 1;
  const int64_t smallest = ceil_mode ? 1 : 2;
  PoolShape s{};
  s.batch = draw(random, 1, 2);
  s.channels = draw(random, 0, 4) == 0 ? draw(random, 250, 270) : draw(random, 1, 40);
  s.height = draw(random, smallest, 9);
  s.width = draw(random, smallest, 9);
  s.pooled_height = pooled_size(s.height, ceil_mode);
  s.pooled_width = pooled_size(s.width, ceil_mode);
  return s;
}

int64_t element(const PoolShape& s, int64_t n, int64_t row, int64_t col, int64_t c) {
  return ((n * s.height + row) * s.width + col) * s.channels + c;
}

// Calls body(n, oh, ow, c, window) for every window and channel.
template <class Body>
void for_windows(const PoolShape& s, const Body& body) {
  for (int64_t window = 0; window < s.pooled_rows() * s.pooled_width; ++window) {
    const int64_t ow = window % s.pooled_width, row = window / s.pooled_width;
    for (int64_t c = 0; c < s.channels; ++c) {
      body(row / s.pooled_height, row % s.pooled_height, ow, c, window);
    }
  }
}

// The first of a window's largest values, in row-major order.
template <class Value>
int expected_code(const PoolShape& s, int64_t oh, int64_t ow, const Value& value) {
  int best = 0;
  for (int place = 1; place < 4; ++place) {
    const int64_t row = 2 * oh + (place >> 1), col = 2 * ow + (place & 1);
    if (row < s.height && col < s.width && value(row, col) > value(2 * oh + (best >> 1), 2 * ow + (best & 1))) {
      best = place;
    }
  }
  return best;
}

void check_pad_bits(const PoolShape& s, const Buffer<uint8_t>& codes) {
  const int64_t bytes = codes_bytes(s.channels);
  for (int64_t window = 0; s.channels % 4 != 0 && window < codes.size() / bytes; ++window) {
    const int last = codes[window * bytes + bytes - 1];
    CHECK(last >> 2 * (s.channels % 4) == 0, "pad bits of window %lld", static_cast<long long>(window));
  }
}

template <class T>
void max_pool(Random& random) {
  using E = Element<T>;
  const PoolShape s = random_shape(random);
  const int64_t bytes = codes_bytes(s.channels), windows = s.pooled_rows() * s.pooled_width;
  const auto input = integers<T>(s.pixels() * s.channels, random);
  Buffer<T> output(windows * s.channels);
  Buffer<uint8_t> codes(windows * bytes);
  const max_pool2d_with_codes::ForwardParams params{s, input.data(), output.data(), codes.data()};
  on_threads(s.pooled_rows(), 3,
             [&](int64_t begin, int64_t end) { max_pool2d_with_codes::forward(E::kDType, params, begin, end); });
  for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    const auto value = [&](int64_t row, int64_t col) { return E::value(input[element(s, n, row, col, c)]); };
    const int code = expected_code(s, oh, ow, value);
    CHECK(get_code(codes.data() + window * bytes, c) == code, "channel %lld", static_cast<long long>(c));
    CHECK(E::value(output[window * s.channels + c]) == value(2 * oh + (code >> 1), 2 * ow + (code & 1)), "output");
  });
  check_pad_bits(s, codes);

  const auto any = random_bytes(windows * bytes, random);
  const auto grad_output = integers<T>(windows * s.channels, random);
  Buffer<T> grad_input(input.size());
  const max_pool2d_with_codes::BackwardParams backward{s, grad_output.data(), any.data(), grad_input.data()};
  on_threads(s.pooled_rows(), 3,
             [&](int64_t begin, int64_t end) { max_pool2d_with_codes::backward(E::kDType, backward, begin, end); });
  std::vector<double> expected(static_cast<size_t>(input.size()), 0.0);
  for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    int64_t row, col;
    winner_of(any.data() + window * bytes, c, oh, ow, s.height, s.width, row, col);
    expected[static_cast<size_t>(element(s, n, row, col, c))] = E::value(grad_output[window * s.channels + c]);
  });
  for (int64_t i = 0; i < grad_input.size(); ++i) {
    CHECK(E::value(grad_input[i]) == expected[static_cast<size_t>(i)], "gradient %lld", static_cast<long long>(i));
  }
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
    const bool same = std::isnan(before) ? std::isnan(after) : input[i].bits == output[i].bits;
    CHECK(same, "%04x became %04x", static_cast<unsigned>(input[i].bits), static_cast<unsigned>(output[i].bits));
  }
}

template <class T>
void fused_pool(Random& random) {
  using E = Element<T>;
  using acc_t = acc_type<T>;
  namespace op = bn_relu_max_pool2d;
  const PoolShape s = random_shape(random);
  const int64_t bytes = codes_bytes(s.channels), windows = s.pooled_rows() * s.pooled_width;
  const auto input = integers<T>(s.pixels() * s.channels, random);

  const int64_t parts = draw(random, 1, std::min<int64_t>(5, s.pooled_rows()));
  Buffer<double> partial_mean(parts * s.channels), partial_square(parts * s.channels);
  std::fill_n(partial_mean.data(), partial_mean.size(), 0.0);
  std::fill_n(partial_square.data(), partial_square.size(), 0.0);
  const op::StatsParams stats{s.pixels(), s.channels, input.data(), parts, partial_mean.data(), partial_square.data()};
  on_threads(parts, 2, [&](int64_t begin, int64_t end) { op::stats(E::kDType, stats, begin, end); });
  Buffer<acc_t> batch_mean(s.channels), batch_var(s.channels);
  op::merge_stats(E::kDType, stats, batch_mean.data(), batch_var.data());
  for (int64_t c = 0; c < s.channels; ++c) {
    double sum = 0, squares = 0;
    for (int64_t pixel = 0; pixel < s.pixels(); ++pixel) {
      const double x = E::value(input[pixel * s.channels + c]);
      sum += x;
      squares += x * x;
    }
    const double mean = sum / static_cast<double>(s.pixels());
    CHECK(std::abs(batch_mean[c] - mean) < 1e-5, "mean %g, expected %g", double(batch_mean[c]), mean);
    const double var = squares / static_cast<double>(s.pixels()) - mean * mean;
    CHECK(std::abs(batch_var[c] - var) < 1e-5, "variance %g, expected %g", double(batch_var[c]), var);
  }

  const auto mean = integers<acc_t>(s.channels, random), scale = integers<acc_t>(s.channels, random);
  const auto shift = integers<acc_t>(s.channels, random);
  Buffer<T> output(windows * s.channels);
  Buffer<uint8_t> codes(windows * bytes);
  const op::ForwardParams params{s, input.data(), scale.data(), shift.data(), output.data(), codes.data()};
  on_threads(s.pooled_rows(), 3, [&](int64_t begin, int64_t end) { op::forward(E::kDType, params, begin, end); });
  const auto rectified = [&](int64_t n, int64_t row, int64_t col, int64_t c) {
    const double x = E::value(input[element(s, n, row, col, c)]);
    return std::max(0.0, x * double(scale[c]) + double(shift[c]));
  };
  for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    const auto value = [&](int64_t row, int64_t col) { return rectified(n, row, col, c); };
    const int code = expected_code(s, oh, ow, value);
    CHECK(get_code(codes.data() + window * bytes, c) == code, "channel %lld", static_cast<long long>(c));
    CHECK(E::value(output[window * s.channels + c]) == value(2 * oh + (code >> 1), 2 * ow + (code & 1)), "output");
  });
  check_pad_bits(s, codes);

  const auto any = random_bytes(windows * bytes, random);
  const auto grad_output = integers<T>(windows * s.channels, random);
  const auto grad_mean = integers<acc_t>(s.channels, random), projection = integers<acc_t>(s.channels, random, -1, 1);
  Buffer<T> grad_input(input.size());
  op::BackwardParams backward{};
  backward.shape = s;
  backward.grad_output = grad_output.data();
  backward.input = input.data();
  backward.codes = any.data();
  backward.mean = mean.data();
  backward.scale = scale.data();
  backward.shift = shift.data();
  backward.parts = parts;
  backward.partial_sum = partial_mean.data();
  backward.partial_product = partial_square.data();
  backward.batch_statistics = draw(random, 0, 1) == 1;
  backward.grad_mean = grad_mean.data();
  backward.projection = projection.data();
  backward.grad_input = grad_input.data();
  std::fill_n(partial_mean.data(), partial_mean.size(), 0.0);
  std::fill_n(partial_square.data(), partial_square.size(), 0.0);
  on_threads(parts, 2, [&](int64_t begin, int64_t end) { op::backward_reduce(E::kDType, backward, begin, end); });
  on_threads(s.pooled_rows(), 3,
             [&](int64_t begin, int64_t end) { op::backward_input(E::kDType, backward, begin, end); });

  std::vector<double> reached(static_cast<size_t>(input.size()), 0.0);
  std::vector<double> sum(static_cast<size_t>(s.channels), 0.0), product(static_cast<size_t>(s.channels), 0.0);
  for_windows(s, [&](int64_t n, int64_t oh, int64_t ow, int64_t c, int64_t window) {
    int64_t row, col;
    winner_of(any.data() + window * bytes, c, oh, ow, s.height, s.width, row, col);
    const double grad = rectified(n, row, col, c) > 0 ? E::value(grad_output[window * s.channels + c]) : 0;
    const int64_t at = element(s, n, row, col, c);
    reached[static_cast<size_t>(at)] = grad;
    sum[static_cast<size_t>(c)] += grad;
    product[static_cast<size_t>(c)] += grad * (E::value(input[at]) - double(mean[c]));
  });
  for (int64_t c = 0; c < s.channels; ++c) {
    double our_sum = 0, our_product = 0;
    for (int64_t part = 0; part < parts; ++part) {
      our_sum += partial_mean[part * s.channels + c];
      our_product += partial_square[part * s.channels + c];
    }
    CHECK(our_sum == sum[static_cast<size_t>(c)], "sum %g, expected %g", our_sum, sum[static_cast<size_t>(c)]);
    CHECK(our_product == product[static_cast<size_t>(c)], "product %g", our_product);
  }
  for (int64_t i = 0; i < grad_input.size(); ++i) {
    const int64_t c = i % s.channels;
    double expected = reached[static_cast<size_t>(i)];
    if (backward.batch_statistics) {
      expected -= double(grad_mean[c]) + (E::value(input[i]) - double(mean[c])) * double(projection[c]);
    }
    expected *= double(scale[c]);
    CHECK(E::value(grad_input[i]) == expected, "gradient %g, expected %g", E::value(grad_input[i]), expected);
  }
}

void test() {
  Random random(1);
  for (int i = 0; i < 40; ++i) {
    for_every_dtype([&](auto, auto zero) {
      max_pool<decltype(zero)>(random);
      fused_pool<decltype(zero)>(random);
    });
  }
  every_half_value<bfloat16>();
  every_half_value<half>();
}

}  // namespace

int main() {
  return at_every_level(test);
}
