// Compiled once for each SIMD level by foreach_level.h.
#include "common/pool.inl"

namespace bn_relu_max_pool2d {

using segnet_ext::bn_relu_max_pool2d::AffineParams;
using segnet_ext::bn_relu_max_pool2d::BackwardParams;
using segnet_ext::bn_relu_max_pool2d::ForwardParams;
using segnet_ext::bn_relu_max_pool2d::InverseParams;
using segnet_ext::bn_relu_max_pool2d::MergeSumsParams;
using segnet_ext::bn_relu_max_pool2d::part_begin;
using segnet_ext::bn_relu_max_pool2d::StatsParams;

// Loops over channels without branches, of which the compiler makes vectors.
struct MakeAffine {
  template <class scalar_t>
  static void run(const AffineParams& p) {
    using T = acc_type<scalar_t>;
    const auto *means = static_cast<const T*>(p.mean), *vars = static_cast<const T*>(p.var);
    auto *invstds = static_cast<T*>(p.invstd), *scales = static_cast<T*>(p.scale), *shifts = static_cast<T*>(p.shift);
    const auto fill = [&](T* row, const void* given, T otherwise) {
      given != nullptr ? std::copy_n(static_cast<const T*>(given), p.channels, row)
                       : std::fill_n(row, p.channels, otherwise);
    };
    fill(scales, p.weight, T(1));
    fill(shifts, p.bias, T(0));
    const auto eps = static_cast<T>(p.eps);
    for (int64_t c = 0; c < p.channels; ++c) {
      const T invstd = segnet_ext::batch_norm_invstd(vars[c], eps);
      const auto channel = segnet_ext::batch_norm_affine(means[c], invstd, scales[c], shifts[c]);
      invstds[c] = invstd;
      scales[c] = channel.scale;
      shifts[c] = channel.shift;
    }
  }
};

struct MakeInverse {
  template <class scalar_t>
  static void run(const InverseParams& p) {
    using T = acc_type<scalar_t>;
    const auto *means = static_cast<const T*>(p.mean), *vars = static_cast<const T*>(p.var);
    const auto *scales = static_cast<const T*>(p.scale), *shifts = static_cast<const T*>(p.shift);
    auto *origins = static_cast<T*>(p.origin), *slopes = static_cast<T*>(p.slope);
    int64_t count = 0;
    for (int64_t c = 0; c < p.channels; ++c) {
      const segnet_ext::BatchNormAffine<T> channel{scales[c], shifts[c]};
      const auto back = segnet_ext::batch_norm_inverse(means[c], channel);
      const bool good = segnet_ext::inverts(channel, back, vars[c]);
      origins[c] = back.origin;
      slopes[c] = good ? back.slope : std::numeric_limits<T>::quiet_NaN();
      count += good ? 1 : 0;
    }
    *p.good = count;
  }
};

// The sums of a channel's distances from its first value, its origin, and of the distances' squares. As the origin is
// one of the values, it lies at most sqrt(count) deviations from their mean: double has the digits for these sums, also
// where the mean is large beside the deviation. A group of pixels is summed in acc_t, for speed: as distances from its
// center, the mean of the first four, for the same reason. One value that lies far from all others costs the more
// precision the nearer the center is to it.
constexpr int64_t kGroupPixels = 128;

// Infinity and NaN are no origin: the distance of infinity from itself is NaN.
template <class V>
SEGNET_INLINE V finite_or_zero(V value) {
  return value - value == V{} ? value : V{};
}

struct Stats {
  template <class scalar_t>
  static void run(const StatsParams& p, int64_t begin_part, int64_t end_part) {
    using acc_t = acc_type<scalar_t>;
    const int64_t channels = p.channels;
    const auto* input = static_cast<const scalar_t*>(p.input);
    const LineArray<acc_t> center(new_lines<acc_t>(3 * channels));
    acc_t *group_sum = center.get() + channels, *group_squares = group_sum + channels;
    // From the last part to the first: the next pass begins with what was read last, as far as the caches have it.
    for (int64_t part = end_part - 1; part >= begin_part; --part) {
      double* sum = p.partial_sum + part * channels;
      double* squares = p.partial_squares + part * channels;
      std::fill_n(sum, channels, 0.0);
      std::fill_n(squares, channels, 0.0);
      // Parts are cut between whole groups.
      const int64_t groups = (p.pixels + kGroupPixels - 1) / kGroupPixels;
      const int64_t last = part_begin(groups, p.parts, part + 1);
      for (int64_t i = part_begin(groups, p.parts, part); i < last; ++i) {
        const scalar_t* group = input + i * kGroupPixels * channels;
        const int64_t count = std::min(kGroupPixels, p.pixels - i * kGroupPixels);
        for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
          constexpr int kLanes = decltype(lanes)::value;
          auto mean = load<kLanes>(group + c);
          if (count >= 4) {
            const auto share = [&](int64_t pixel) { return acc_t(0.25) * load<kLanes>(group + pixel * channels + c); };
            mean = (share(0) + share(1)) + (share(2) + share(3));
          }
          store<kLanes>(center.get() + c, finite_or_zero(mean));
        });
        std::fill_n(group_sum, 2 * channels, acc_t(0));
        if (!sum_rows<kRowVectors>(group, count, channels, center.get(), group_sum, group_squares)) {
          sum_pixels(group, count, channels, center.get(), group_sum, group_squares);
        }
        for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
          constexpr int kLanes = decltype(lanes)::value;
          add_moments<acc_t, kLanes>(static_cast<double>(count), finite_or_zero(load<kLanes>(input + c)),
                                     load<kLanes>(center.get() + c), load<kLanes>(group_sum + c),
                                     load<kLanes>(group_squares + c), sum + c, squares + c);
        });
      }
    }
  }

  // Both add a group's distances from the center, and the squares of these, to the sums.
  //
  // Of rows that are so few vectors that their sums stay in registers: nothing is read but the map, in its order, which
  // the processor fetches ahead faster by itself than any other order with a program's help. False where rows are not.
  static constexpr int kRowVectors = SEGNET_SIMD_BYTES == 64 ? 8 : 0;  // half of the registers, where there are 32
  static constexpr int64_t kRows = 16;                                 // to a sum, for short chains of additions

  template <int kVectors, class scalar_t, class acc_t>
  SEGNET_INLINE static bool sum_rows(const scalar_t* group, int64_t count, int64_t channels, const acc_t* center,
                                     acc_t* sum, acc_t* squares) {
    if constexpr (kVectors == 0) {
      return false;
    } else {
      constexpr int kLanes = kLanesOf<acc_t>;
      if (channels != kVectors * kLanes) {
        return sum_rows<kVectors / 2>(group, count, channels, center, sum, squares);
      }
      for (int64_t begin = 0; begin < count; begin += kRows) {
        Vec<acc_t, kLanes> sums[kVectors] = {}, sums_of_squares[kVectors] = {};
        for (int64_t pixel = begin; pixel < std::min(begin + kRows, count); ++pixel) {
          for (int i = 0; i < kVectors; ++i) {
            const auto distance =
                load<kLanes>(center + i * kLanes) - load<kLanes>(group + (pixel * kVectors + i) * kLanes);
            sums[i] -= distance;
            sums_of_squares[i] += distance * distance;
          }
        }
        for (int i = 0; i < kVectors; ++i) {
          store<kLanes>(sum + i * kLanes, load<kLanes>(sum + i * kLanes) + sums[i]);
          store<kLanes>(squares + i * kLanes, load<kLanes>(squares + i * kLanes) + sums_of_squares[i]);
        }
      }
      return true;
    }
  }

  // Of any rows: four pixels to a load of the sums, side by side, nearly in the order of memory.
  template <class scalar_t, class acc_t>
  SEGNET_INLINE static void sum_pixels(const scalar_t* group, int64_t count, int64_t channels, const acc_t* center,
                                       acc_t* sum, acc_t* squares) {
    int64_t pixel = 0;
    for (; pixel + 4 <= count; pixel += 4) {
      add_pixels<4>(group + pixel * channels, channels, center, sum, squares);
    }
    for (; pixel < count; ++pixel) {
      add_pixels<1>(group + pixel * channels, channels, center, sum, squares);
    }
  }

  // Adds pixels' distances from the center, and the squares of these, to the sums.
  template <int kPixels, class scalar_t, class acc_t>
  SEGNET_INLINE static void add_pixels(const scalar_t* pixels, int64_t channels, const acc_t* center, acc_t* sum,
                                       acc_t* squares) {
    constexpr int64_t kAhead = 8192 / sizeof(scalar_t);
    for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      prefetch<kPixels * kLanes>(pixels + kPixels * c + kAhead);
      const auto origin = load<kLanes>(center + c);
      Vec<acc_t, kLanes> sums{}, sums_of_squares{};  // of a few, so that no chain of additions is long
      for (int i = 0; i < kPixels; ++i) {
        const auto distance = origin - load<kLanes>(pixels + i * channels + c);  // so the load needs no instruction
        sums -= distance;
        sums_of_squares += distance * distance;
      }
      store<kLanes>(sum + c, load<kLanes>(sum + c) + sums);
      store<kLanes>(squares + c, load<kLanes>(squares + c) + sums_of_squares);
    });
  }

  // Adds the sums over `count` values, measured from `center`, to the sums measured from `origin`.
  template <class acc_t, int kLanes>
  SEGNET_INLINE static void add_moments(double count, Vec<acc_t, kLanes> origin, Vec<acc_t, kLanes> center,
                                        Vec<acc_t, kLanes> center_sum, Vec<acc_t, kLanes> center_squares, double* sum,
                                        double* squares) {
    // A vector of floats makes two of doubles.
    constexpr int kWide = kLanes < kLanesOf<double> ? kLanes : kLanesOf<double>;
    const Vec<acc_t, kLanes> all[] = {origin, center, center_sum, center_squares};
    Vec<acc_t, kWide> halves[4][kLanes / kWide];
    __builtin_memcpy(halves, all, sizeof(all));
    for (int i = 0; i < kLanes / kWide; ++i) {
      const auto move = to_double<kWide>(halves[1][i]) - to_double<kWide>(halves[0][i]);
      const auto moved = move * count;
      const auto distances = to_double<kWide>(halves[2][i]);
      store<kWide>(sum + i * kWide, load<kWide>(sum + i * kWide) + (distances + moved));
      store<kWide>(squares + i * kWide,
                   load<kWide>(squares + i * kWide) + to_double<kWide>(halves[3][i]) + move * (moved + 2 * distances));
    }
  }
};

struct MergeStats {
  template <class scalar_t>
  static void run(const StatsParams& p, void* mean, void* var) {
    using acc_t = acc_type<scalar_t>;
    const auto pixels = static_cast<double>(p.pixels);
    for_lanes<double>(p.channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      Vec<double, kLanes> sum{}, squares{};
      for (int64_t part = 0; part < p.parts; ++part) {
        sum += load<kLanes>(p.partial_sum + part * p.channels + c);
        squares += load<kLanes>(p.partial_squares + part * p.channels + c);
      }
      const auto origin = to_double<kLanes>(finite_or_zero(load<kLanes>(static_cast<const scalar_t*>(p.input) + c)));
      const auto variance = (squares - sum * (sum / pixels)) / pixels;
      store<kLanes>(static_cast<acc_t*>(mean) + c, from_double<acc_t, kLanes>(origin + sum / pixels));
      // Rounding may leave less than nothing of it. Written so that NaN stays.
      store<kLanes>(static_cast<acc_t*>(var) + c, from_double<acc_t, kLanes>(relu(variance)));
    });
  }
};

// BatchNorm rounded to scalar_t, so that the values that the unfused operations would find equal are equal here too.
template <class scalar_t, int kLanes, class acc_t = acc_type<scalar_t>>
SEGNET_INLINE Vec<acc_t, kLanes> normalise(Vec<acc_t, kLanes> x, Vec<acc_t, kLanes> scale, Vec<acc_t, kLanes> shift) {
  return round_to<scalar_t, kLanes>(BatchNormAffine<Vec<acc_t, kLanes>>{scale, shift}(x));
}

// Of kLanes channels from `c` on.
template <class scalar_t>
struct Transform {
  using acc_t = acc_type<scalar_t>;
  const acc_t *scale, *shift;

  template <class Params>
  explicit Transform(const Params& p)
      : scale(static_cast<const acc_t*>(p.scale)), shift(static_cast<const acc_t*>(p.shift)) {}

  template <int kLanes>
  SEGNET_INLINE Vec<acc_t, kLanes> apply(Vec<acc_t, kLanes> x, int64_t c) const {
    return normalise<scalar_t, kLanes>(x, load<kLanes>(scale + c), load<kLanes>(shift + c));
  }
};

struct Forward {
  template <class scalar_t>
  static void run(const ForwardParams& p, int64_t begin, int64_t end) {
    const Transform<scalar_t> transform(p);
    pool_rows(
        p.shape, static_cast<const scalar_t*>(p.input), static_cast<scalar_t*>(p.output), p.codes, begin, end,
        [&](auto x, int64_t c, auto lanes) { return transform.template apply<decltype(lanes)::value>(x, c); },
        [](auto normalised) { return relu(normalised); });
  }
};

// What one window contributes: its winner's input, and the gradient that relu lets through to it.
template <int kLanes, class scalar_t>
struct Winner {
  using acc_t = acc_type<scalar_t>;
  Vec<mask_type<acc_t>, kLanes> code;
  Vec<acc_t, kLanes> x[4];  // by place
  Vec<acc_t, kLanes> x_winner, grad;

  template <class Transform>
  SEGNET_INLINE Winner(const Window& window, const scalar_t* input, const scalar_t* grad_output, const uint8_t* codes,
                       const Transform& transform, int64_t c) {
    code = load_codes<acc_t, kLanes>(codes, c, window.rows, window.cols);
    for (int place = 0; place < 4; ++place) {
      x[place] = load<kLanes>(input + window.element(place) + c);
      x_winner = place == 0 ? x[0] : (wins(place) ? x[place] : x_winner);
    }
    grad = relu_grad(load<kLanes>(grad_output + c), transform.template apply<kLanes>(x_winner, c));
  }

  SEGNET_INLINE auto wins(int place) const { return code == code_lanes<acc_t, kLanes>(place); }
};

// Calls body(winner, window, channel) for every window of the pooled rows [begin, end) and vector of channels, but for
// those that skip(channel, lanes) leaves out, and outside(input_offset) as for_each_window does.
template <class scalar_t, class Transform, class Body, class Outside, class Skip>
SEGNET_INLINE void for_each_winner(const BackwardParams& p, const Transform& transform, int64_t begin, int64_t end,
                                   const Body& body, const Outside& outside, const Skip& skip) {
  const int64_t channels = p.shape.channels;
  const auto* input = static_cast<const scalar_t*>(p.input);
  const auto* grad_output = static_cast<const scalar_t*>(p.grad_output);
  const auto window = [&](const Window& w) {
    const uint8_t* codes = p.codes + w.index * codes_bytes(channels);
    for_lanes<acc_type<scalar_t>>(channels, [&](int64_t c, auto lanes) {
      if (skip(c, lanes)) {
        return;
      }
      prefetch_windows<decltype(lanes)::value>(input + w.offset, w.row_step, c);
      body(Winner<decltype(lanes)::value, scalar_t>(w, input, grad_output + w.index * channels, codes, transform, c), w,
           c);
    });
  };
  for_each_window(p.shape, begin, end, window, outside);
}
template <class scalar_t, class Transform, class Body, class Outside>
SEGNET_INLINE void for_each_winner(const BackwardParams& p, const Transform& transform, int64_t begin, int64_t end,
                                   const Body& body, const Outside& outside) {
  for_each_winner<scalar_t>(p, transform, begin, end, body, outside, [](int64_t, auto) { return false; });
}

// BatchNorm's input gradient with fixed statistics: it does not depend on the input, which may be infinite.
template <class T>
struct FixedInputGrad {
  T scale;

  SEGNET_INLINE T centered(T grad) const { return grad; }
  SEGNET_INLINE T of_centered(T centered, T) const { return scale * centered; }
};

// Writes grad_input. What it knows of a channel lies together by vectors of channels, so that a loop over them has one
// address for all, and registers left for the maps'.
template <class scalar_t, bool kBatchStatistics>
struct InputGrad {
  using acc_t = acc_type<scalar_t>;
  enum Row { kScale, kShift, kMean, kOffset, kSlope };
  static constexpr int kRows = kBatchStatistics ? kSlope + 1 : kShift + 1;

  int64_t channels;
  LineArray<acc_t> rows;
  const scalar_t* input;
  scalar_t* grad_input;
  bool past_caches;

  explicit InputGrad(const BackwardParams& p)
      : channels(p.shape.channels),
        rows(new_lines<acc_t>(kRows * channels)),
        input(static_cast<const scalar_t*>(p.input)),
        grad_input(static_cast<scalar_t*>(p.grad_input)),
        past_caches(
            streams(grad_input, p.shape.pixels(), channels * sizeof(scalar_t), kLanesOf<acc_t> * sizeof(scalar_t))) {
    const void* const all[] = {p.scale, p.shift, p.mean, p.grad_offset, p.grad_slope};
    for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      for (int row = 0; row < kRows; ++row) {
        store<kLanes>(rows.get() + kRows * c + row * kLanes, load<kLanes>(static_cast<const acc_t*>(all[row]) + c));
      }
    });
  }

  // Of kLanes channels from `c` on.
  template <int kLanes>
  SEGNET_INLINE Vec<acc_t, kLanes> get(Row row, int64_t c) const {
    return load<kLanes>(rows.get() + kRows * c + row * kLanes);
  }
  template <int kLanes>
  SEGNET_INLINE Vec<acc_t, kLanes> apply(Vec<acc_t, kLanes> x, int64_t c) const {
    return normalise<scalar_t, kLanes>(x, get<kLanes>(kScale, c), get<kLanes>(kShift, c));
  }

  // In registers: what is stored to grad_input could be these for all that the compiler knows.
  template <int kLanes>
  SEGNET_INLINE auto batch_norm(int64_t c) const {
    if constexpr (kBatchStatistics) {
      return BatchNormInputGrad<Vec<acc_t, kLanes>>{get<kLanes>(kScale, c), get<kLanes>(kMean, c),
                                                    get<kLanes>(kOffset, c), get<kLanes>(kSlope, c)};
    } else {
      return FixedInputGrad<Vec<acc_t, kLanes>>{get<kLanes>(kScale, c)};
    }
  }

  template <int kLanes>
  SEGNET_INLINE void window(const Winner<kLanes, scalar_t>& winner, const Window& w, int64_t c) const {
    prefetch_written_windows<kLanes>(grad_input + w.offset, w.row_step, c, past_caches);
    const auto grads = batch_norm<kLanes>(c);
    const auto won = grads.centered(winner.grad), lost = grads.centered(Vec<acc_t, kLanes>{});
    for (int place = 3; place >= 0; --place) {
      store<kLanes>(grad_input + w.element(place) + c,
                    grads.of_centered(winner.wins(place) ? won : lost, winner.x[place]), past_caches);
    }
  }

  SEGNET_INLINE void outside(int64_t offset) const {
    for_lanes<acc_t>(channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      const auto grads = batch_norm<kLanes>(c);
      store<kLanes>(grad_input + offset + c,
                    grads.of_centered(grads.centered(Vec<acc_t, kLanes>{}), load<kLanes>(input + offset + c)));
    });
  }
};

struct BackwardReduce {
  template <class scalar_t>
  static void run(const BackwardParams& p, int64_t begin_part, int64_t end_part) {
    if constexpr (sizeof(scalar_t) == sizeof(acc_type<scalar_t>)) {
      if (p.output != nullptr) {
        return sum_outputs<scalar_t>(p, begin_part, end_part);
      }
    }
    p.batch_statistics ? sum_winners<scalar_t>(p, begin_part, end_part)
                       : sum_winners_and_write<scalar_t>(p, begin_part, end_part);
  }

  // add(first_row, last_row, sum, product) adds what rows of windows contribute; such a group is summed in acc_t,
  // groups in double.
  template <class acc_t, class Add>
  SEGNET_INLINE static void sum_groups(const BackwardParams& p, int64_t begin_part, int64_t end_part, const Add& add) {
    const int64_t channels = p.shape.channels;
    const int64_t group_rows = std::max<int64_t>(1, kGroupPixels / p.shape.pooled_width);
    const LineArray<acc_t> group_sum(new_lines<acc_t>(2 * channels));
    acc_t* group_product = group_sum.get() + channels;
    for (int64_t part = end_part - 1; part >= begin_part; --part) {  // backwards, as in Stats
      double* sum = p.partial_sum + part * channels;
      double* product = p.partial_product + part * channels;
      std::fill_n(sum, channels, 0.0);
      std::fill_n(product, channels, 0.0);
      const int64_t last = part_begin(p.shape.pooled_rows(), p.parts, part + 1);
      for (int64_t row = part_begin(p.shape.pooled_rows(), p.parts, part); row < last; row += group_rows) {
        std::fill_n(group_sum.get(), 2 * channels, acc_t(0));
        add(row, std::min(row + group_rows, last), group_sum.get(), group_product);
        for (int64_t c = 0; c < channels; ++c) {
          sum[c] += group_sum[c];
          product[c] += group_product[c];
        }
      }
    }
  }

  template <class T>
  static void sum_outputs(const BackwardParams& p, int64_t begin_part, int64_t end_part) {
    const int64_t channels = p.shape.channels, width = p.shape.pooled_width;
    const auto *grad_output = static_cast<const T*>(p.grad_output), *output = static_cast<const T*>(p.output);
    sum_groups<T>(p, begin_part, end_part, [&](int64_t first_row, int64_t last_row, T* sum, T* product) {
      // Four windows to a load of the sums, as in Stats.
      int64_t window = first_row * width;
      for (; window + 4 <= last_row * width; window += 4) {
        add_outputs<4>(p, grad_output + window * channels, output + window * channels, sum, product);
      }
      for (; window < last_row * width; ++window) {
        add_outputs<1>(p, grad_output + window * channels, output + window * channels, sum, product);
      }
      if (p.by_input) {
        for_each_winner<T>(
            p, Transform<T>(p), first_row, last_row,
            [&](const auto& winner, const Window&, int64_t c) { add_winner(p, winner, c, sum, product); },
            [](int64_t) {},
            [&](int64_t c, auto lanes) { return go_by_output(load<decltype(lanes)::value>(slopes<T>(p) + c)); });
      }
    });
  }

  template <class T>
  SEGNET_INLINE static const T* slopes(const BackwardParams& p) {
    return static_cast<const T*>(p.slope);
  }
  // Do all channels of a vector, whose slopes these are, go by the output?
  template <class V>
  SEGNET_INLINE static bool go_by_output(V slope) {
    constexpr int kLanes = sizeof(V) / sizeof(slope[0]);
    return or_lanes<mask_type<std::remove_reference_t<decltype(slope[0])>>, kLanes>(slope != slope) == 0;
  }

  template <int kWindows, class T>
  SEGNET_INLINE static void add_outputs(const BackwardParams& p, const T* grad_output, const T* output, T* sum,
                                        T* product) {
    constexpr int64_t kAhead = 4096 / sizeof(T);
    const int64_t channels = p.shape.channels;
    for_lanes<T>(channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      prefetch<kWindows * kLanes>(grad_output + kWindows * c + kAhead);
      prefetch<kWindows * kLanes>(output + kWindows * c + kAhead);
      const BatchNormInverse<Vec<T, kLanes>> inverse{load<kLanes>(static_cast<const T*>(p.origin) + c),
                                                     load<kLanes>(slopes<T>(p) + c)};
      if (p.by_input && !go_by_output(inverse.slope)) {
        return;
      }
      Vec<T, kLanes> sums{}, products{};
      for (int i = 0; i < kWindows; ++i) {
        const auto y = load<kLanes>(output + i * channels + c);
        const auto grad = relu_grad(load<kLanes>(grad_output + i * channels + c), y);
        sums += grad;
        products += grad * inverse.deviation(y);
      }
      store<kLanes>(sum + c, load<kLanes>(sum + c) + sums);
      store<kLanes>(product + c, load<kLanes>(product + c) + products);
    });
  }

  template <class Winner, class acc_t>
  SEGNET_INLINE static void add_winner(const BackwardParams& p, const Winner& winner, int64_t c, acc_t* sum,
                                       acc_t* product) {
    constexpr int kLanes = sizeof(winner.grad) / sizeof(acc_t);
    const auto deviation = winner.x_winner - load<kLanes>(static_cast<const acc_t*>(p.mean) + c);
    store<kLanes>(sum + c, load<kLanes>(sum + c) + winner.grad);
    store<kLanes>(product + c, load<kLanes>(product + c) + winner.grad * deviation);
  }

  template <class scalar_t>
  static void sum_winners(const BackwardParams& p, int64_t begin_part, int64_t end_part) {
    using acc_t = acc_type<scalar_t>;
    const Transform<scalar_t> transform(p);
    sum_groups<acc_t>(p, begin_part, end_part, [&](int64_t first_row, int64_t last_row, acc_t* sum, acc_t* product) {
      for_each_winner<scalar_t>(
          p, transform, first_row, last_row,
          [&](const auto& winner, const Window&, int64_t c) { add_winner(p, winner, c, sum, product); },
          [](int64_t) {});
    });
  }

  // With fixed statistics the gradient of the input needs none of the sums.
  template <class scalar_t>
  static void sum_winners_and_write(const BackwardParams& p, int64_t begin_part, int64_t end_part) {
    using acc_t = acc_type<scalar_t>;
    const InputGrad<scalar_t, false> input_grad(p);
    sum_groups<acc_t>(p, begin_part, end_part, [&](int64_t first_row, int64_t last_row, acc_t* sum, acc_t* product) {
      for_each_winner<scalar_t>(
          p, input_grad, first_row, last_row,
          [&](const auto& winner, const Window& w, int64_t c) {
            add_winner(p, winner, c, sum, product);
            input_grad.window(winner, w, c);
          },
          [&](int64_t offset) { input_grad.outside(offset); });
    });
    stream_fence();
  }
};

struct MergeSums {
  template <class scalar_t>
  static void run(const MergeSumsParams& p) {
    using acc_t = acc_type<scalar_t>;
    for_lanes<double>(p.channels, [&](int64_t c, auto lanes) {
      constexpr int kLanes = decltype(lanes)::value;
      using V = Vec<double, kLanes>;
      V sum{}, product{};
      for (int64_t part = 0; part < p.parts; ++part) {
        sum += load<kLanes>(p.partial_sum + part * p.channels + c);
        product += load<kLanes>(p.partial_product + part * p.channels + c);
      }
      const auto get = [c](const void* from) {
        return to_double<kLanes>(load<kLanes>(static_cast<const acc_t*>(from) + c));
      };
      const auto grads =
          batch_norm_grads(sum, product, get(p.invstd), get(p.scale), broadcast<double, kLanes>(p.values));
      const auto put = [c](void* to, V value) {
        store<kLanes>(static_cast<acc_t*>(to) + c, from_double<acc_t, kLanes>(value));
      };
      put(p.grad_weight, grads.weight);
      put(p.grad_bias, grads.bias);
      put(p.grad_offset, grads.offset);
      put(p.grad_slope, grads.slope);
    });
  }
};

struct BackwardInput {
  template <class scalar_t>
  static void run(const BackwardParams& p, int64_t begin, int64_t end) {
    const InputGrad<scalar_t, true> input_grad(p);
    for_each_winner<scalar_t>(
        p, input_grad, begin, end,
        [&](const auto& winner, const Window& w, int64_t c) { input_grad.window(winner, w, c); },
        [&](int64_t offset) { input_grad.outside(offset); });
    stream_fence();
  }
};

}  // namespace bn_relu_max_pool2d
