#pragma once

// Per-element functions are written once and compiled for the host (scalars and SIMD vectors) and for CUDA (scalars).
#if defined(__CUDACC__)
#define SEGNET_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SEGNET_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Functions whose arguments or results are SIMD vectors must be inlined: their calling convention depends on the level.
#define SEGNET_INLINE inline __attribute__((always_inline))
