// Winograd's transforms over vectors of channels, by interpolation at 0, pairs of points and infinity. As each pair is
// symmetric its even and odd parts are computed once, and all coefficients but those of the taps are exact in float.

namespace conv3x3 {

// The transforms of vectors of T for tiles of kTile x kTile outputs. Each is one-dimensional; transform_square applies
// it along both axes.
template <class T, int kTile>
struct Winograd;

// F(4x4, 3x3), at 11/16, -11/16, 3/2 and -3/2: on random data about the most accurate choice of two pairs. The usual 1
// and 2 have several times the error.
template <class T>
struct Winograd<T, 4> {
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

// F(6x6, 3x3), at 1/2, -1/2, 1, -1, 2 and -2, with five times the error of F(4x4, 3x3). Forward only.
template <class T>
struct Winograd<T, 6> {
  // The squares of the points 1/2, 1 and 2, and of these the sums of products of one and of two; of all three it is 1.
  static constexpr T kA2 = T(0.25), kB2 = T(1), kC2 = T(4), kSum = T(5.25);
  // The product over the other finite points q of (p - q), at +-1/2, +-1 and +-2; at 0 it is -1.
  static constexpr T kNormA = 2 * kA2 * (kA2 - kB2) * (kA2 - kC2), kNormB = 2 * kB2 * (kB2 - kA2) * (kB2 - kC2),
                     kNormC = 2 * kC2 * (kC2 - kA2) * (kC2 - kB2);

  // Eight pixels of a row or column to their values at the eight points.
  template <class V>
  SEGNET_INLINE static void transform_data(const V (&d)[8], V (&v)[8]) {
    const V even_a = d[6] - (kB2 + kC2) * d[4] + kB2 * kC2 * d[2], odd_a = d[5] - (kB2 + kC2) * d[3] + kB2 * kC2 * d[1];
    const V even_b = d[6] - (kA2 + kC2) * d[4] + kA2 * kC2 * d[2], odd_b = d[5] - (kA2 + kC2) * d[3] + kA2 * kC2 * d[1];
    const V even_c = d[6] - (kA2 + kB2) * d[4] + kA2 * kB2 * d[2], odd_c = d[5] - (kA2 + kB2) * d[3] + kA2 * kB2 * d[1];
    v[0] = (d[6] - d[0]) + kSum * (d[2] - d[4]);
    v[1] = even_a + T(0.5) * odd_a;
    v[2] = even_a - T(0.5) * odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = even_c + 2 * odd_c;
    v[6] = even_c - 2 * odd_c;
    v[7] = (d[7] - d[1]) + kSum * (d[3] - d[5]);
  }

  // Three taps to their values at the points.
  template <class V>
  SEGNET_INLINE static void transform_taps(const V (&g)[3], V (&u)[8]) {
    const V even_a = (g[0] + kA2 * g[2]) * (1 / kNormA), odd_a = g[1] * (T(0.5) / kNormA);
    const V even_b = (g[0] + kB2 * g[2]) * (1 / kNormB), odd_b = g[1] * (1 / kNormB);
    const V even_c = (g[0] + kC2 * g[2]) * (1 / kNormC), odd_c = g[1] * (2 / kNormC);
    u[0] = -g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = even_c + odd_c;
    u[6] = even_c - odd_c;
    u[7] = g[2];
  }

  // Products at the points to six outputs.
  template <class V>
  SEGNET_INLINE static void transform_products(const V (&m)[8], V (&y)[6]) {
    const V sum_a = m[1] + m[2], difference_a = m[1] - m[2];
    const V sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    const V sum_c = m[5] + m[6], difference_c = m[5] - m[6];
    y[0] = m[0] + sum_a + sum_b + sum_c;
    y[1] = T(0.5) * difference_a + difference_b + 2 * difference_c;
    y[2] = T(0.25) * sum_a + sum_b + 4 * sum_c;
    y[3] = T(0.125) * difference_a + difference_b + 8 * difference_c;
    y[4] = T(0.0625) * sum_a + sum_b + 16 * sum_c;
    y[5] = T(0.03125) * difference_a + difference_b + 32 * difference_c + m[7];
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
