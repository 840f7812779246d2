// Between storage types and the types that kernels accumulate in. Rounding is to nearest even.
#pragma once

#include "cuda/platform.cuh"
#include "segnet_ext/dtypes.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

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
  return __half2float(__ushort_as_half(value.bits));
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
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  return {host_cuda::bfloat16_from_float(value)};
#endif
}
template <>
SEGNET_DEVICE half from_acc<half>(float value) {
#if defined(__CUDACC__)
  return {__half_as_ushort(__float2half_rn(value))};
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
