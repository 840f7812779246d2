#pragma once

// Per-element functions are written once and compiled for the host (scalars and SIMD vectors) and for CUDA (scalars).
#if defined(__CUDACC__)
#define SEGNET_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SEGNET_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Functions whose arguments or results are SIMD vectors must be inlined: their calling convention depends on the level.
#define SEGNET_INLINE inline __attribute__((always_inline))

// GCC notes that passing wide vectors by value depends on the instruction set; here such functions are always inlined.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif
