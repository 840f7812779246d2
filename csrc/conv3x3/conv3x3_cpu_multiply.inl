// The multiplication that all the work is: a few rows by two vectors of columns, sums in registers.

namespace conv3x3 {

constexpr int kVectors = 2;
template <class T>
constexpr int kPanel = kVectors * kLanesOf<T>;  // columns
// Rows whose sums fit the registers beside two vectors of columns and a broadcast value: in 16 registers, or twice in
// AVX-512's 32.
constexpr int kRows = 6;

// Whether a product joins a sum without being rounded first.
#if SEGNET_SIMD_BYTES > 16 || defined(__FP_FAST_FMAF)
constexpr bool kFused = true;
#else
constexpr bool kFused = false;
#endif

// Products that are summed in one chain, before they join the sum of earlier chains. A chain of more would make up most
// of Winograd's rounding error in float32; the half types have none that the rounding of the result does not hide.
template <class scalar_t>
constexpr int64_t kChain = sizeof(scalar_t) == 2 ? 128 : (kFused ? 32 : 8);

// product[r, 0 .. kPanel) (+)= sum over k of left(r, k) * right[k, 0 .. kPanel), where left(r, k) is left[r * stride +
// k], or with kTransposed left[k * stride + r].
template <class T>
struct Multiplication {
  int64_t chain, depth;
  const T* left;
  int64_t stride;
  const T* right;
  int64_t right_stride;
  T* product;
  int64_t product_stride;
  bool accumulate;
};

// The loops over rows are unrolled, since a sum that is indexed at run time would live in memory. A function of its own
// that reads what it needs when it needs it: what waits in registers takes those of the sums.
template <class T, bool kTransposed, int kCount>
__attribute__((noinline)) void multiply_rows(const Multiplication<T>& m, int64_t row) {
  constexpr int kLanes = kLanesOf<T>;
  using V = Vec<T, kLanes>;
  V total[kCount][kVectors] = {};
  if (m.accumulate) {
    const T* from = m.product + row * m.product_stride;
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r, from += m.product_stride) {
      for (int v = 0; v < kVectors; ++v) {
        total[r][v] = load<kLanes>(from + v * kLanes);
      }
    }
  }
  const int64_t stride = m.stride;
  const T* left = m.left + (kTransposed ? row : row * stride);
  const T* right = m.right;
  for (int64_t depth = m.depth; depth > 0; depth -= m.chain) {
    constexpr int kFetched = 2 * kLineBytes / sizeof(T);
    if (!kTransposed && kCount == kRows && (m.depth - depth) % kFetched == 0) {
      // The rows lie far apart and are left again after a few lines, so that the processor does not see the next ones
      // coming.
      const T* next = left + kRows * stride;
#pragma GCC unroll 1  // addresses made beforehand would take a register that the sums need
      for (int r = 0; r < kCount; ++r, next += stride) {
        prefetch<kFetched>(next);
      }
    }
    V sum[kCount][kVectors] = {};
    for (int64_t k = std::min(depth, m.chain); k > 0; --k) {
      V columns[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        columns[v] = load<kLanes>(right + v * kLanes);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kCount; ++r) {
        const auto value = broadcast<T, kLanes>(left[kTransposed ? r : r * stride]);
        for (int v = 0; v < kVectors; ++v) {
          sum[r][v] += value * columns[v];
        }
      }
      right += m.right_stride;
      left += kTransposed ? stride : 1;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kCount; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        total[r][v] += sum[r][v];
      }
    }
  }
  T* to = m.product + row * m.product_stride;
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r, to += m.product_stride) {
    for (int v = 0; v < kVectors; ++v) {
      store<kLanes>(to + v * kLanes, total[r][v]);
    }
  }
}

template <class T>
using MultiplyRows = void (*)(const Multiplication<T>&, int64_t);

template <class T, bool kTransposed, int... kIndex>
MultiplyRows<T> multiply_rows_of(int64_t count, std::integer_sequence<int, kIndex...>) {
  constexpr MultiplyRows<T> table[] = {multiply_rows<T, kTransposed, kIndex + 1>...};
  return table[count - 1];
}

// The same for any number of rows.
template <class T, bool kTransposed>
void multiply(int64_t rows, const Multiplication<T>& m) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    multiply_rows<T, kTransposed, kRows>(m, r);
  }
  if (r < rows) {
    multiply_rows_of<T, kTransposed>(rows - r, std::make_integer_sequence<int, kRows>{})(m, r);
  }
}

}  // namespace conv3x3
