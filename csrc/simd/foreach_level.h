// Compiles the file named by SEGNET_SIMD_FILE once for every SIMD level, each time in a namespace of the level's name:
//
//   #define SEGNET_SIMD_FILE "my_op/my_op_cpu_kernel.inl"
//   #include "simd/foreach_level.h"
//
// The instruction set is switched by pragma around that file alone. Everything it needs from other headers has to be
// included before, at the base instruction set: an inline function of a shared header that was compiled for AVX-512
// could be the copy that the linker keeps for all. For the same reason there are no per-file compiler flags to keep in
// step.
//
// Inside the file: SEGNET_SIMD_BYTES is the vector width, SEGNET_SIMD_HALVES whether the processor converts IEEE
// halves, SEGNET_SIMD_MASKS whether it compares whole vectors to numbers with a bit to a lane; simd/vec.inl supplies
// the vector type, and segnet_ext/elementwise.inl the formulas.
#include <utility>

#include "segnet_ext/dtypes.h"
#include "segnet_ext/macros.h"
#include "simd/levels.h"

#if !defined(__GNUC__) && !defined(__clang__)
#error "segnet_ext needs GCC or Clang: its kernels are written over their vector types"
#endif

// SSE2 and NEON have 16 bytes. Tests compile this level with 64 to run the kernels at AVX-512's width on any processor.
#ifndef SEGNET_SIMD_PORTABLE_BYTES
#define SEGNET_SIMD_PORTABLE_BYTES 16
#endif
#define SEGNET_SIMD_BYTES SEGNET_SIMD_PORTABLE_BYTES
#define SEGNET_SIMD_HALVES 0
#define SEGNET_SIMD_MASKS 0
namespace segnet_ext::portable {
#include "segnet_ext/elementwise.inl"
#include "simd/vec.inl"
#include SEGNET_SIMD_FILE
}  // namespace segnet_ext::portable
#undef SEGNET_SIMD_BYTES
#undef SEGNET_SIMD_HALVES

#if SEGNET_HAS_X86_LEVELS

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define SEGNET_SIMD_BYTES 32
#define SEGNET_SIMD_HALVES 1
namespace segnet_ext::avx2 {
#include "segnet_ext/elementwise.inl"
#include "simd/vec.inl"
#include SEGNET_SIMD_FILE
}  // namespace segnet_ext::avx2
#undef SEGNET_SIMD_BYTES
#undef SEGNET_SIMD_MASKS
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi2,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#define SEGNET_SIMD_BYTES 64
#define SEGNET_SIMD_MASKS 1
namespace segnet_ext::avx512 {
#include "segnet_ext/elementwise.inl"
#include "simd/vec.inl"
#include SEGNET_SIMD_FILE
}  // namespace segnet_ext::avx512
#undef SEGNET_SIMD_BYTES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // SEGNET_HAS_X86_LEVELS

#undef SEGNET_SIMD_HALVES
#undef SEGNET_SIMD_MASKS
#undef SEGNET_SIMD_FILE
