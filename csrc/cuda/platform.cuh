// What kernel files stand on. They are compiled by nvcc for the GPU, and by the host compiler for the tests that
// execute them without one (host_cuda/).
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define SEGNET_DEVICE __device__ __forceinline__
// The block's dynamic shared memory as bytes, 16-byte aligned.
#define SEGNET_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

#else

#include "host_cuda/host_cuda.h"

#define SEGNET_DEVICE inline __attribute__((always_inline))
#define SEGNET_DYNAMIC_SHARED(name) unsigned char* const name = ::host_cuda::dynamic_shared()

#endif

namespace segnet_ext::cuda {

constexpr int kWarpSize = 32;

// Is this the compilation for an architecture of at least kMin and below kMax (75 stands for 7.5)? Kernels whose traits
// belong to other architectures compile to trap(). True on the host, which executes them all.
template <int kMin, int kMax = 10000>
SEGNET_DEVICE constexpr bool compiled_for() {
#if defined(__CUDA_ARCH__)
  return __CUDA_ARCH__ >= 10 * kMin && __CUDA_ARCH__ < 10 * kMax;
#else
  return true;
#endif
}

// Ends a kernel that should not have been started, with an error instead of a result that was never written.
SEGNET_DEVICE void trap() {
#if defined(__CUDA_ARCH__)
  __trap();
#endif
}

}  // namespace segnet_ext::cuda
