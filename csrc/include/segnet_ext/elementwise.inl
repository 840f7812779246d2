// The per-element mathematics of the operations, each formula once. T is a scalar or a SIMD vector of scalars; a
// condition `mask ? a : b` selects lane by lane for vectors.
//
// Scalar and CUDA code includes elementwise.h. SIMD kernels get a copy in each level's namespace from foreach_level.h,
// so that functions of vectors are compiled for the instruction set that has them; hence no include guard.

// Does `value` take the window over from `best`? torch's rule: the first of equals stays, and NaN always wins.
template <class T>
SEGNET_HOST_DEVICE auto pool_wins(T value, T best) {
  return (value > best) | (value != value);
}

// The same where neither is NaN.
template <class T>
SEGNET_HOST_DEVICE auto pool_wins_of_numbers(T value, T best) {
  return value > best;
}

// How many elements a winner lies behind its window's first one, in a plane of that width, by its code (codes.h).
template <class T>
SEGNET_HOST_DEVICE T code_to_offset(T code, int64_t width) {
  return ((code & T(T{} + 2)) != T{} ? T{} + width : T{}) + (code & T(T{} + 1));
}

// The code of the winner that lies `offset` elements behind a window's first one in a plane of that width,
// and -1 where that is not in the window. T is unsigned: an offset from far outside wraps instead of overflowing.
template <class T>
SEGNET_HOST_DEVICE T offset_to_code(T offset, int64_t rows_in_window, int64_t cols_in_window, int64_t width) {
  const T line = T{} + static_cast<uint64_t>(width), cols = T{} + static_cast<uint64_t>(cols_in_window);
  const bool two_rows = rows_in_window > 1;
  const T row = two_rows ? (offset >= line ? T{} + uint64_t(1) : T{}) : T{};
  const T col = two_rows ? (offset >= line ? offset - line : offset) : offset;
  return col < cols ? row + row + col : T{} - uint64_t(1);
}

// max(value, 0) that keeps NaN, as torch's relu does.
template <class T>
SEGNET_HOST_DEVICE T relu(T value) {
  return value < T{} ? T{} : value;
}

// Where relu lets a gradient through, given its argument or its result. Written so that NaN passes, as torch's
// threshold_backward does.
template <class T>
SEGNET_HOST_DEVICE T relu_grad(T grad, T value) {
  return value <= T{} ? T{} : grad;
}

// BatchNorm as one multiply-add a value: y = x * scale + shift.
template <class T>
struct BatchNormAffine {
  T scale, shift;

  SEGNET_HOST_DEVICE T operator()(T x) const { return x * scale + shift; }
};

template <class T>
SEGNET_HOST_DEVICE BatchNormAffine<T> batch_norm_affine(T mean, T invstd, T weight, T bias) {
  const T scale = weight * invstd;
  return {scale, bias - mean * scale};
}

// From y = x * scale + shift back to x's distance from the mean.
template <class T>
struct BatchNormInverse {
  T origin, slope;  // what the mean becomes; 1 / scale

  SEGNET_HOST_DEVICE T deviation(T y) const { return (y - origin) * slope; }
};

// The gradient that reaches a BatchNorm input in training, where the batch's own statistics carry gradient:
// scale * (grad - mean(grad) - xhat * mean(grad * xhat)), as two multiply-adds a value. With fixed statistics it is
// scale * grad.
template <class T>
struct BatchNormInputGrad {
  T scale, mean;
  T offset, slope;  // -scale * mean(grad); -scale * invstd^2 * mean(grad * (x - mean))

  // The part without the input, for gradients that several elements share.
  SEGNET_HOST_DEVICE T centered(T grad) const { return grad * scale + offset; }
  SEGNET_HOST_DEVICE T of_centered(T centered, T x) const { return centered + (x - mean) * slope; }

  SEGNET_HOST_DEVICE T operator()(T grad, T x) const { return of_centered(centered(grad), x); }
};

// The gradients of a BatchNorm's weight and bias, and what BatchNormInputGrad needs, from the sums over a channel of
// the gradient and of gradient * (x - mean). `values` is the number of pixels, not only of those summed over.
template <class T>
struct BatchNormGrads {
  T weight, bias, offset, slope;
};
template <class T>
SEGNET_HOST_DEVICE BatchNormGrads<T> batch_norm_grads(T sum, T product, T invstd, T scale, T values) {
  const T share = -scale / values;
  return {product * invstd, sum, sum * share, product * invstd * invstd * share};
}

// The sum and the sum of squared deviations from the mean of some values. Two such are merged by the distance of their
// means (Chan, Golub, LeVeque 1979), not as a difference of large squares: nothing is lost where the mean is large
// beside the deviation.
template <class T>
struct Moments {
  T sum, squares;

  // What the counts of both come to, the same for all channels.
  struct Counts {
    T inverse_a, inverse_b, weight;  // no a: zeros
    SEGNET_HOST_DEVICE Counts(T a, T b)
        : inverse_a(a > T(0) ? T(1) / a : T(0)), inverse_b(T(1) / b), weight(a * b / (a + b)) {}
  };

  SEGNET_HOST_DEVICE void merge(const Counts& counts, T sum_b, T squares_b) {
    const T mean_b = sum_b * counts.inverse_b;
    const T delta = mean_b - (counts.inverse_a > T(0) ? sum * counts.inverse_a : mean_b);
    sum += sum_b;
    squares += squares_b + delta * delta * counts.weight;
  }
};
