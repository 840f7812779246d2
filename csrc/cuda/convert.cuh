// Between storage types and the types that kernels accumulate in. Rounding is to nearest even. The instructions
// themselves: CUDA's headers of the half formats, which wrap them, take longer to read than most kernels to compile.
#pragma once

#include "cuda/platform.cuh"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::cuda {

SEGNET_DEVICE float to_acc(float value) {
  return value;
}
SEGNET_DEVICE double to_acc(double value) {
  return value;
}
SEGNET_DEVICE float to_acc(bfloat16 value) {
#if defined(__CUDACC__)
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
#else
  return host_cuda::float_from_bfloat16(value.bits);
#endif
}
SEGNET_DEVICE float to_acc(half value) {
#if defined(__CUDACC__)
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
#else
  return host_cuda::float_from_half(value.bits);
#endif
}

template <class scalar_t>
SEGNET_DEVICE scalar_t from_acc(acc_type<scalar_t> value) {
  return value;
}
template <>
SEGNET_DEVICE bfloat16 from_acc<bfloat16>(float value) {
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 800
  bfloat16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  const unsigned bits = __float_as_uint(value);
  const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {static_cast<uint16_t>(value == value ? rounded : 0x7fffu)};
#endif
#else
  return {host_cuda::bfloat16_from_float(value)};
#endif
}
template <>
SEGNET_DEVICE half from_acc<half>(float value) {
#if defined(__CUDACC__)
  half result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  return {host_cuda::half_from_float(value)};
#endif
}

// The nearest float with 10 bits of mantissa, which is what the matrix units take; unrounded they cut the rest off.
SEGNET_DEVICE float round_to_tf32(float value) {
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 800
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
#else
  return value;  // no such unit before 8.0, and no kernel that calls this
#endif
#else
  return host_cuda::round_to_tf32(value);
#endif
}

}  // namespace segnet_ext::cuda
