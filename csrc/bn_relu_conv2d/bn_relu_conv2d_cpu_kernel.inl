// Compiled once for each SIMD level by foreach_level.h.

namespace bn_relu_conv2d {

using segnet_ext::bn_relu_conv2d::BackwardParams;

// The gradient that ReLU lets through to the normalised value, which is computed again.
template <int kLanes, class scalar_t>
SEGNET_INLINE Vec<acc_type<scalar_t>, kLanes> grad_of_normalised(const BackwardParams& p,
                                                                 Vec<acc_type<scalar_t>, kLanes> x,
                                                                 const scalar_t* grad, int64_t c) {
  using acc_t = acc_type<scalar_t>;
  const BatchNormAffine<Vec<acc_t, kLanes>> affine{load<kLanes>(static_cast<const acc_t*>(p.scale) + c),
                                                   load<kLanes>(static_cast<const acc_t*>(p.shift) + c)};
  return relu_grad(load<kLanes>(grad), affine(x));
}

struct BackwardReduce {
  static constexpr int64_t kChunk = 32;  // pixels summed in acc_t; chunks are summed in double

  template <class scalar_t>
  static void run(const BackwardParams& p, int64_t begin, int64_t end) {
    using acc_t = acc_type<scalar_t>;
    const auto* mean = static_cast<const acc_t*>(p.mean);
    for (int64_t part = begin; part < end; ++part) {
      double* sums = p.partial_sum + part * p.channels;
      double* products = p.partial_product + part * p.channels;
      std::fill_n(sums, p.channels, 0.0);
      std::fill_n(products, p.channels, 0.0);
      const int64_t last = p.pixels * (part + 1) / p.parts;
      for (int64_t pixel = p.pixels * part / p.parts; pixel < last; pixel += kChunk) {
        const int64_t count = std::min(kChunk, last - pixel);
        const auto* input = static_cast<const scalar_t*>(p.input) + pixel * p.channels;
        const auto* grad = static_cast<const scalar_t*>(p.grad) + pixel * p.channels;
        for_lanes<acc_t>(p.channels, [&](int64_t c, auto lanes) {
          constexpr int kLanes = decltype(lanes)::value;
          Vec<acc_t, kLanes> sum{}, product{};
          const auto mean_here = load<kLanes>(mean + c);
          for (int64_t i = 0; i < count; ++i) {
            const auto x = load<kLanes>(input + i * p.channels + c);
            const auto g = grad_of_normalised<kLanes>(p, x, grad + i * p.channels + c, c);
            sum += g;
            product += g * (x - mean_here);
          }
          for (int lane = 0; lane < kLanes; ++lane) {
            sums[c + lane] += sum[lane];
            products[c + lane] += product[lane];
          }
        });
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
    for (int64_t pixel = begin; pixel < end; ++pixel) {
      const auto* input = static_cast<const scalar_t*>(p.input) + pixel * p.channels;
      auto* grad = static_cast<scalar_t*>(p.grad) + pixel * p.channels;
      for_lanes<acc_t>(p.channels, [&](int64_t c, auto lanes) {
        constexpr int kLanes = decltype(lanes)::value;
        const auto of = [c](const void* vector) { return load<kLanes>(static_cast<const acc_t*>(vector) + c); };
        const auto x = load<kLanes>(input + c);
        const auto g = grad_of_normalised<kLanes>(p, x, grad + c, c);
        if constexpr (kBatchStatistics) {
          const BatchNormInputGrad<Vec<acc_t, kLanes>> batch_norm{of(p.scale), of(p.mean), of(p.grad_offset),
                                                                  of(p.grad_slope)};
          store<kLanes>(grad + c, batch_norm(g, x));
        } else {
          store<kLanes>(grad + c, of(p.scale) * g);
        }
      });
    }
  }
};

}  // namespace bn_relu_conv2d
