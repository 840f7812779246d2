// The multiplication that all the work is: a few rows by two vectors of columns, sums in registers.

namespace conv3x3 {

constexpr int kVectors = 2;
template <class T>
constexpr int kPanel = kVectors * kLanesOf<T>;  // columns
// Rows whose sums fit the registers beside two vectors of columns and a broadcast value: 16 registers, or AVX-512's 32.
constexpr int kRows = SEGNET_SIMD_BYTES == 64 ? 12 : 6;

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

// One chain of `length` products. The loops over rows are unrolled, since a sum that is indexed at run time would live
// in memory. A function of its own, since the addresses of all rows, kept over the chains, would take the sums'
// registers.
template <class T, bool kTransposed, int kCount>
__attribute__((noinline)) void multiply_chain(int64_t length, const T* left, int64_t stride, const T* right,
                                              int64_t right_stride, T* product, int64_t product_stride,
                                              bool accumulate) {
  constexpr int kLanes = kLanesOf<T>;
  Vec<T, kLanes> sum[kCount][kVectors] = {};
  for (int64_t k = 0; k < length; ++k, right += right_stride, left += kTransposed ? stride : 1) {
    Vec<T, kLanes> columns[kVectors];
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
  }
#pragma GCC unroll 16
  for (int r = 0; r < kCount; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      T* to = product + r * product_stride + v * kLanes;
      store<kLanes>(to, accumulate ? load<kLanes>(to) + sum[r][v] : sum[r][v]);
    }
  }
}

// product[r, 0 .. kPanel) (+)= sum over k of left(r, k) * right[k, 0 .. kPanel), where left(r, k) is left[r * stride +
// k], or with kTransposed left[k * stride + r].
template <class T, bool kTransposed, int kCount>
void multiply_rows(int64_t chain, int64_t depth, const T* left, int64_t stride, const T* right, int64_t right_stride,
                   T* product, int64_t product_stride, bool accumulate) {
  while (depth > 0) {
    const int64_t length = std::min(depth, chain);
    multiply_chain<T, kTransposed, kCount>(length, left, stride, right, right_stride, product, product_stride,
                                           accumulate);
    left += kTransposed ? length * stride : length;
    right += length * right_stride;
    depth -= length;
    accumulate = true;
  }
}

template <class T>
using MultiplyRows = void (*)(int64_t, int64_t, const T*, int64_t, const T*, int64_t, T*, int64_t, bool);

template <class T, bool kTransposed, int... kIndex>
MultiplyRows<T> multiply_rows_of(int64_t count, std::integer_sequence<int, kIndex...>) {
  constexpr MultiplyRows<T> table[] = {multiply_rows<T, kTransposed, kIndex + 1>...};
  return table[count - 1];
}

// The same for any number of rows.
template <class T, bool kTransposed>
void multiply(int64_t rows, int64_t chain, int64_t depth, const T* left, int64_t stride, const T* right,
              int64_t right_stride, T* product, int64_t product_stride, bool accumulate) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    multiply_rows<T, kTransposed, kRows>(chain, depth, left + (kTransposed ? r : r * stride), stride, right,
                                         right_stride, product + r * product_stride, product_stride, accumulate);
  }
  if (r < rows) {
    multiply_rows_of<T, kTransposed>(rows - r, std::make_integer_sequence<int, kRows>{})(
        chain, depth, left + (kTransposed ? r : r * stride), stride, right, right_stride, product + r * product_stride,
        product_stride, accumulate);
  }
}

}  // namespace conv3x3
