// Memory accesses of up to 16 bytes at a time.
#pragma once

#include <cstring>

#include "cuda/platform.cuh"

namespace segnet_ext::cuda {

constexpr int kVectorBytes = 16;  // the widest single access

// n values that lie side by side and are aligned as one.
template <class T, int n>
struct alignas(sizeof(T) * n < kVectorBytes ? sizeof(T) * n : kVectorBytes) Vector {
  T values[n];

  SEGNET_DEVICE T& operator[](int i) { return values[i]; }
  SEGNET_DEVICE const T& operator[](int i) const { return values[i]; }
};

template <int kBytes>
struct VectorAccess;
template <>
struct VectorAccess<1> {
  using type = unsigned char;
};
template <>
struct VectorAccess<2> {
  using type = unsigned short;
};
template <>
struct VectorAccess<4> {
  using type = unsigned;
};
template <>
struct VectorAccess<8> {
  using type = uint2;
};
template <>
struct VectorAccess<16> {
  using type = uint4;
};

// How threads that write rows of `kVecs` 16-byte vectors into shared memory share them out, where a row begins
// `kStride` vectors behind the last one. Eight neighbouring threads write at a time, and in one pass if they meet all
// 32 banks: as few rows as do that, a power of two, side by side.
template <int kVecs, int kStride>
class BankFreeRows {
 public:
  int row, vec;
  SEGNET_DEVICE explicit BankFreeRows(int item)
      : row(item / (kRows * kVecs) * kRows + item % kRows), vec(item / kRows % kVecs) {}

  // Items of `rows` rows; of the last ones, the row may lie past the end.
  SEGNET_DEVICE static int items(int rows) { return (rows + kRows - 1) / kRows * kRows * kVecs; }

 private:
  static constexpr int side_by_side() {
    for (int rows = 1; rows <= 8; rows *= 2) {
      unsigned slots = 0;
      for (int thread = 0; thread < 8; ++thread) {
        slots |= 1u << (thread % rows * kStride + thread / rows) % 8;
      }
      if (slots == 0xff && 8 / rows <= kVecs) {
        return rows;
      }
    }
    return 0;
  }
  static constexpr int kRows = side_by_side();
  static_assert(kRows > 0, "threads that write meet the same banks, however they share rows out");
};

// Loads n values from an address that is aligned for all of them at once (for 16 bytes of them, where they are more).
template <int n, class T>
SEGNET_DEVICE Vector<T, n> load_vector(const T* from) {
  constexpr int kAccess = alignof(Vector<T, n>);
  using Access = typename VectorAccess<kAccess>::type;
#if !defined(__CUDACC__)
  host_cuda::check_alignment(from, kAccess);
#endif
  Vector<T, n> vector;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(vector)) / kAccess; ++i) {
    const Access part = reinterpret_cast<const Access*>(from)[i];
    memcpy(reinterpret_cast<unsigned char*>(&vector) + i * kAccess, &part, kAccess);
  }
  return vector;
}

template <int n, class T>
SEGNET_DEVICE void store_vector(T* to, const Vector<T, n>& vector) {
  constexpr int kAccess = alignof(Vector<T, n>);
  using Access = typename VectorAccess<kAccess>::type;
#if !defined(__CUDACC__)
  host_cuda::check_alignment(to, kAccess);
#endif
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(vector)) / kAccess; ++i) {
    Access part;
    memcpy(&part, reinterpret_cast<const unsigned char*>(&vector) + i * kAccess, kAccess);
#if defined(__CUDACC__)
    if constexpr (kAccess == kVectorBytes) {
      // nvcc likes to take a vector apart and store its elements one by one. The question is answered at compile time.
      if (__isGlobal(to)) {
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                     :
                     : "l"(__cvta_generic_to_global(reinterpret_cast<Access*>(to) + i)), "r"(part.x), "r"(part.y),
                       "r"(part.z), "r"(part.w)
                     : "memory");
        continue;
      }
    }
#endif
    reinterpret_cast<Access*>(to)[i] = part;
  }
}

}  // namespace segnet_ext::cuda
