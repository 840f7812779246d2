// Winograd's transforms for F(4x4, 3x3) over vectors of channels, by interpolation at 0, 11/16, -11/16, 3/2, -3/2 and
// infinity. On random data that is about the most accurate choice of two pairs: the usual 1 and 2 have several times
// the error. As each pair is symmetric its even and odd parts are computed once, and all coefficients but those of the
// taps are exact in float.

namespace conv3x3 {

// The transforms of vectors of T. Each is one-dimensional; transform_square applies it along both axes.
template <class T>
struct Winograd {
  static constexpr T kA = T(0.6875), kB = T(1.5);
  static constexpr T kA2 = kA * kA, kB2 = kB * kB;
  static constexpr T kA3 = kA2 * kA, kB3 = kB2 * kB;
  // The product over the other finite points q of (p - q), at p = 0, +-a and +-b.
  static constexpr T kNorm0 = kA2 * kB2, kNormA = 2 * kA2 * (kA2 - kB2), kNormB = 2 * kB2 * (kB2 - kA2);

  // Six pixels of a row or column to their values at the six points.
  template <class V>
  SEGNET_INLINE static void transform_data(const V (&d)[6], V (&v)[6]) {
    const V even_a = d[4] - kB2 * d[2], odd_a = d[3] - kB2 * d[1];
    const V even_b = d[4] - kA2 * d[2], odd_b = d[3] - kA2 * d[1];
    v[0] = kNorm0 * d[0] + (d[4] - (kA2 + kB2) * d[2]);
    v[1] = even_a + kA * odd_a;
    v[2] = even_a - kA * odd_a;
    v[3] = even_b + kB * odd_b;
    v[4] = even_b - kB * odd_b;
    v[5] = kNorm0 * d[1] + (d[5] - (kA2 + kB2) * d[3]);
  }

  // Three taps to their values at the points.
  template <class V>
  SEGNET_INLINE static void transform_taps(const V (&g)[3], V (&u)[6]) {
    const V even_a = (g[0] + kA2 * g[2]) * (1 / kNormA), odd_a = g[1] * (kA / kNormA);
    const V even_b = (g[0] + kB2 * g[2]) * (1 / kNormB), odd_b = g[1] * (kB / kNormB);
    u[0] = g[0] * (1 / kNorm0);
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
  }

  // Products at the points to four outputs.
  template <class V>
  SEGNET_INLINE static void transform_products(const V (&m)[6], V (&y)[4]) {
    const V sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const V sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = kA * difference_a + kB * difference_b;
    y[2] = kA2 * sum_a + kB2 * sum_b;
    y[3] = kA3 * difference_a + (kB3 * difference_b + m[5]);
  }

  // The transpose of transform_products: gradients of four outputs to gradients of the products.
  template <class V>
  SEGNET_INLINE static void transform_grads(const V (&y)[4], V (&m)[6]) {
    const V even_a = y[0] + kA2 * y[2], odd_a = y[1] + kA2 * y[3];
    const V even_b = y[0] + kB2 * y[2], odd_b = y[1] + kB2 * y[3];
    m[0] = y[0];
    m[1] = even_a + kA * odd_a;
    m[2] = even_a - kA * odd_a;
    m[3] = even_b + kB * odd_b;
    m[4] = even_b - kB * odd_b;
    m[5] = y[3];
  }

  // The transpose of transform_taps: gradients at the points to gradients of three taps.
  template <class V>
  SEGNET_INLINE static void transform_tap_grads(const V (&u)[6], V (&g)[3]) {
    const V sum_a = (u[1] + u[2]) * (1 / kNormA), difference_a = (u[1] - u[2]) * (kA / kNormA);
    const V sum_b = (u[3] + u[4]) * (1 / kNormB), difference_b = (u[3] - u[4]) * (kB / kNormB);
    g[0] = u[0] * (1 / kNorm0) + (sum_a + sum_b);
    g[1] = difference_a + difference_b;
    g[2] = kA2 * sum_a + (kB2 * sum_b + u[5]);
  }
};

// A one-dimensional transform of kFrom to kTo values, along columns and then along rows. from(column, vectors) fills in
// a column, for columns 0, 1, ... in turn; to(row, column, vector) takes a value.
template <int kFrom, int kTo, class V, class Transform, class From, class To>
SEGNET_INLINE void transform_square(const Transform& transform, From&& from, const To& to) {
  V half[kTo][kFrom];
  // Unrolled, these loops would take many times the code and the time to compile it, and no less to run: there are
  // more values than registers, so that they go through memory either way.
#pragma GCC unroll 1
  for (int col = 0; col < kFrom; ++col) {
    V in[kFrom], out[kTo];
    from(col, in);
    transform(in, out);
    for (int row = 0; row < kTo; ++row) {
      half[row][col] = out[row];
    }
  }
#pragma GCC unroll 1
  for (int row = 0; row < kTo; ++row) {
    V out[kTo];
    transform(half[row], out);
    for (int col = 0; col < kTo; ++col) {
      to(row, col, out[col]);
    }
  }
}

}  // namespace conv3x3
