// The CUDA keywords, types and built-in functions that kernel files use. There is no __shared__ on purpose: shared
// memory is taken with SEGNET_DYNAMIC_SHARED, where every access is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};

namespace host_cuda {

// The same in every call that one CUDA thread makes.
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();

unsigned char* dynamic_shared();

// Throws where the address is no multiple of `bytes`. For accesses that the instrumentation cannot see as one.
void check_alignment(const void* address, size_t bytes);

// Where in the source a collective is called. __syncthreads must be met in one place by all.
struct Site {
  const char* file;
  int line;
};

// Waits for the block; gives the number of threads whose predicate was true.
int barrier(bool predicate, Site site);
void warp_barrier(unsigned mask, Site site);

enum class Vote { kBallot, kAny, kAll };
unsigned vote(Vote vote, unsigned mask, bool predicate, Site site);

enum class Shuffle { kIndex, kXor, kUp, kDown };
uint64_t shuffle(Shuffle shuffle, unsigned mask, uint64_t value, int operand, int width, Site site);

template <class T>
T shuffled(Shuffle how, unsigned mask, T value, int operand, int width, Site site) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(how, mask, bits, operand, width, site);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace host_cuda

#define threadIdx (::host_cuda::thread_index())
#define blockIdx (::host_cuda::block_index())
#define blockDim (::host_cuda::block_size())
#define gridDim (::host_cuda::grid_size())
constexpr int warpSize = 32;

// The defaults are evaluated where the function is called.
#define HOST_CUDA_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(HOST_CUDA_SITE) {
  host_cuda::barrier(false, {file, line});
}
inline int __syncthreads_count(int predicate, HOST_CUDA_SITE) {
  return host_cuda::barrier(predicate != 0, {file, line});
}
inline int __syncthreads_or(int predicate, HOST_CUDA_SITE) {
  return host_cuda::barrier(predicate != 0, {file, line}) != 0;
}
inline int __syncthreads_and(int predicate, HOST_CUDA_SITE) {
  return host_cuda::barrier(predicate == 0, {file, line}) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, HOST_CUDA_SITE) {
  host_cuda::warp_barrier(mask, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return host_cuda::vote(host_cuda::Vote::kBallot, mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return host_cuda::vote(host_cuda::Vote::kAny, mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return host_cuda::vote(host_cuda::Vote::kAll, mask, predicate == 0, {file, line}) == 0;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, HOST_CUDA_SITE) {
  return host_cuda::shuffled(host_cuda::Shuffle::kIndex, mask, value, lane, width, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HOST_CUDA_SITE) {
  return host_cuda::shuffled(host_cuda::Shuffle::kXor, mask, value, lanes, width, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, HOST_CUDA_SITE) {
  return host_cuda::shuffled(host_cuda::Shuffle::kUp, mask, value, static_cast<int>(lanes), width, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, HOST_CUDA_SITE) {
  return host_cuda::shuffled(host_cuda::Shuffle::kDown, mask, value, static_cast<int>(lanes), width, {file, line});
}
#undef HOST_CUDA_SITE

template <class T>
T __ldg(const T* from) {
  return *from;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}
inline int __ffs(int bits) {
  return __builtin_ffs(bits);
}
inline int __clz(int bits) {
  return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits));
}

inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
inline uint2 make_uint2(unsigned x, unsigned y) {
  return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

// CUDA has these without a namespace.
template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
