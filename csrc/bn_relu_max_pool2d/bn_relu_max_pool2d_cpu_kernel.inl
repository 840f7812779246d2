// Compiled once for each SIMD level by foreach_level.h.
#include "common/pool.inl"

namespace bn_relu_max_pool2d {

using segnet_ext::bn_relu_max_pool2d::BackwardParams;
using segnet_ext::bn_relu_max_pool2d::ForwardParams;
using segnet_ext::bn_relu_max_pool2d::part_begin;
using segnet_ext::bn_relu_max_pool2d::StatsParams;

// Elements of a block of pixels that is read twice, once for its mean and once for its deviations: it stays in L1.
constexpr int64_t kStatsBlockBytes = 16 * 1024;

// sum of value(load(from + i * stride)) over i in [0, count), in four interleaved chains to hide the adder's latency.
template <int kLanes, class scalar_t, class Value>
SEGNET_INLINE auto sum_strided(const scalar_t* from, int64_t stride, int64_t count, const Value& value) {
  constexpr int kChains = 4;
  Vec<acc_type<scalar_t>, kLanes> sum[kChains] = {};
  int64_t i = 0;
  for (; i + kChains <= count; i += kChains) {
    for (int k = 0; k < kChains; ++k) {
      sum[k] += value(load<kLanes>(from + (i + k) * stride));
    }
  }
  for (; i < count; ++i) {
    sum[0] += value(load<kLanes>(from + i * stride));
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

struct Stats {
  template <class scalar_t>
  static void run(const StatsParams& p, int64_t begin_part, int64_t end_part) {
    for (int64_t part = begin_part; part < end_part; ++part) {
      run_part<scalar_t>(p, part);
    }
  }

  template <class scalar_t>
  static void run_part(const StatsParams& p, int64_t part) {
    using acc_t = acc_type<scalar_t>;
    const auto* input = static_cast<const scalar_t*>(p.input);
    double* part_sum = p.partial_sum + part * p.channels;
    double* part_squares = p.partial_squares + part * p.channels;
    const int64_t first = part_begin(p.pixels, p.parts, part);
    const int64_t last = part_begin(p.pixels, p.parts, part + 1);
    const int64_t fit = kStatsBlockBytes / (p.channels * static_cast<int64_t>(sizeof(scalar_t)));
    const int64_t block = fit < 8 ? 8 : fit;

    const std::unique_ptr<acc_t[]> block_mean(new acc_t[3 * p.channels]);
    acc_t* block_rest = block_mean.get() + p.channels;
    acc_t* block_squares = block_rest + p.channels;

    for (int64_t pixel = first; pixel < last; pixel += block) {
      const int64_t count = last - pixel < block ? last - pixel : block;
      // The mean is rounded to acc_t; the sum of deviations from it, all small, tells by how much.
      for_lanes<acc_t>(p.channels, [&](int64_t c, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        const scalar_t* from = input + pixel * p.channels + c;
        const auto mean = sum_strided<kLanes>(from, p.channels, count, [](auto x) { return x; }) / acc_t(count);
        store<kLanes>(block_mean.get() + c, mean);
        store<kLanes>(block_rest + c, sum_strided<kLanes>(from, p.channels, count, [&](auto x) { return x - mean; }));
        store<kLanes>(block_squares + c,
                      sum_strided<kLanes>(from, p.channels, count, [&](auto x) { return (x - mean) * (x - mean); }));
      });
      const auto values = static_cast<double>(count);
      for (int64_t c = 0; c < p.channels; ++c) {
        // NaN where the mean is infinite, and no correction then.
        const double rest = block_rest[c] == block_rest[c] ? block_rest[c] : 0;
        Moments<double> moments{part_sum[c], part_squares[c]};
        moments.merge(static_cast<double>(pixel - first), block_mean[c] * values + rest,
                      block_squares[c] - rest * rest / values, values);
        part_sum[c] = moments.sum;
        part_squares[c] = moments.squares;
      }
    }
  }
};

template <class acc_t>
struct Transform {
  const acc_t *scale, *shift;

  // BatchNorm and ReLU of kLanes channels from `c` on, rounded to scalar_t so that the values that the unfused
  // operations would find equal are equal here too.
  template <class scalar_t, int kLanes>
  SEGNET_INLINE Vec<acc_t, kLanes> apply(Vec<acc_t, kLanes> x, int64_t c) const {
    const BatchNormAffine<Vec<acc_t, kLanes>> affine{load<kLanes>(scale + c), load<kLanes>(shift + c)};
    return relu(round_to<scalar_t, kLanes>(affine(x)));
  }
};

struct Forward {
  template <class scalar_t>
  static void run(const ForwardParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const Transform<acc_t> transform{static_cast<const acc_t*>(p.scale), static_cast<const acc_t*>(p.shift)};
    pool_rows(p.shape, static_cast<const scalar_t*>(p.input), static_cast<scalar_t*>(p.output), p.codes, begin, end,
              [&](auto x, int64_t c, auto lanes) {
                return transform.template apply<scalar_t, decltype(lanes)::value>(x, c);
              });
  }
};

// What one window contributes: its winner's input, and the gradient that relu lets through to it.
template <int kRows, int kCols, int kLanes, class scalar_t>
struct Winner {
  using acc_t = acc_type<scalar_t>;
  Vec<mask_type<acc_t>, kLanes> code;
  Vec<acc_t, kLanes> x[kRows][kCols];
  Vec<acc_t, kLanes> x_winner, grad;

  SEGNET_INLINE Winner(const scalar_t* corner, int64_t row_stride, int64_t col_stride, const scalar_t* grad_output,
                       const uint8_t* codes, const Transform<acc_t>& transform, int64_t c) {
    code = load_codes<acc_t, kLanes>(codes) & code_mask(kRows, kCols);
    for (int row = 0; row < kRows; ++row) {
      for (int col = 0; col < kCols; ++col) {
        x[row][col] = load<kLanes>(corner + row * row_stride + col * col_stride);
        x_winner = row + col == 0 ? x[0][0] : (code == 2 * row + col ? x[row][col] : x_winner);
      }
    }
    grad = relu_grad(load<kLanes>(grad_output), transform.template apply<scalar_t, kLanes>(x_winner, c));
  }
};

struct BackwardReduce {
  template <class scalar_t>
  static void run(const BackwardParams& p, int64_t begin_part, int64_t end_part) {
    using acc_t = acc_type<scalar_t>;
    const int64_t channels = p.shape.channels;
    const int64_t row_stride = p.shape.width * channels;
    const auto* input = static_cast<const scalar_t*>(p.input);
    const auto* grad_output = static_cast<const scalar_t*>(p.grad_output);
    const auto* mean = static_cast<const acc_t*>(p.mean);
    const Transform<acc_t> transform{static_cast<const acc_t*>(p.scale), static_cast<const acc_t*>(p.shift)};
    // One row of windows is summed in acc_t, rows in double.
    const std::unique_ptr<acc_t[]> row_sum(new acc_t[2 * channels]);
    acc_t* row_product = row_sum.get() + channels;

    const auto window = [&](int64_t offset, int64_t index, auto rows, auto cols) {
      constexpr int kRows = decltype(rows)::value, kCols = decltype(cols)::value;
      for_each_code<acc_t>(
          channels, p.codes + index * codes_bytes(channels), [&](int64_t c, const uint8_t* codes, auto lanes) {
            constexpr int kLanes = decltype(lanes)::value;
            const Winner<kRows, kCols, kLanes, scalar_t> winner(
                input + offset + c, row_stride, channels, grad_output + index * channels + c, codes, transform, c);
            const auto deviation = winner.x_winner - load<kLanes>(mean + c);
            store<kLanes>(row_sum.get() + c, load<kLanes>(row_sum.get() + c) + winner.grad);
            store<kLanes>(row_product + c, load<kLanes>(row_product + c) + winner.grad * deviation);
          });
    };

    for (int64_t part = begin_part; part < end_part; ++part) {
      double* sum = p.partial_sum + part * channels;
      double* product = p.partial_product + part * channels;
      const int64_t last = part_begin(p.shape.pooled_rows(), p.parts, part + 1);
      for (int64_t row = part_begin(p.shape.pooled_rows(), p.parts, part); row < last; ++row) {
        std::fill_n(row_sum.get(), 2 * channels, acc_t(0));
        for_each_window(p.shape, row, row + 1, window, [](int64_t) {});
        for (int64_t c = 0; c < channels; ++c) {
          sum[c] += row_sum[c];
          product[c] += row_product[c];
        }
      }
    }
  }
};

struct BackwardInput {
  template <class scalar_t>
  static void run(const BackwardParams& p, int64_t begin, int64_t end) {
    p.batch_statistics ? run_with<scalar_t, true>(p, begin, end) : run_with<scalar_t, false>(p, begin, end);
  }

  template <class scalar_t, bool kBatchStatistics>
  static void run_with(const BackwardParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const int64_t channels = p.shape.channels;
    const int64_t row_stride = p.shape.width * channels;
    const auto* input = static_cast<const scalar_t*>(p.input);
    const auto* grad_output = static_cast<const scalar_t*>(p.grad_output);
    const auto* mean = static_cast<const acc_t*>(p.mean);
    const auto* scale = static_cast<const acc_t*>(p.scale);
    const auto* grad_mean = static_cast<const acc_t*>(p.grad_mean);
    const auto* projection = static_cast<const acc_t*>(p.projection);
    auto* grad_input = static_cast<scalar_t*>(p.grad_input);
    const Transform<acc_t> transform{scale, static_cast<const acc_t*>(p.shift)};

    // With fixed statistics a pixel's gradient does not depend on its own value, which may be infinite.
    const auto input_grad = [&](auto grad, auto x, int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      if constexpr (kBatchStatistics) {
        const BatchNormInputGrad<Vec<acc_t, kLanes>> batch_norm{
            load<kLanes>(scale + c), load<kLanes>(mean + c), load<kLanes>(grad_mean + c), load<kLanes>(projection + c)};
        return batch_norm(grad, x);
      } else {
        return load<kLanes>(scale + c) * grad;
      }
    };
    const auto window = [&](int64_t offset, int64_t index, auto rows, auto cols) {
      constexpr int kRows = decltype(rows)::value, kCols = decltype(cols)::value;
      for_each_code<acc_t>(
          channels, p.codes + index * codes_bytes(channels), [&](int64_t c, const uint8_t* codes, auto lanes) {
            constexpr int kLanes = decltype(lanes)::value;
            const Winner<kRows, kCols, kLanes, scalar_t> winner(
                input + offset + c, row_stride, channels, grad_output + index * channels + c, codes, transform, c);
            for (int row = 0; row < kRows; ++row) {
              for (int col = 0; col < kCols; ++col) {
                const auto grad = winner.code == 2 * row + col ? winner.grad : Vec<acc_t, kLanes>{};
                store<kLanes>(grad_input + offset + row * row_stride + col * channels + c,
                              input_grad(grad, winner.x[row][col], c, lanes));
              }
            }
          });
    };
    const auto outside = [&](int64_t offset) {
      for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        const auto x = load<kLanes>(input + offset + c);
        store<kLanes>(grad_input + offset + c, input_grad(Vec<acc_t, kLanes>{}, x, c, lanes));
      });
    };
    for_each_window(p.shape, begin, end, window, outside);
  }
};

}  // namespace bn_relu_max_pool2d
