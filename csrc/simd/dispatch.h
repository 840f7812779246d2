// From run-time values to the kernel compiled for them.
#pragma once

#include <utility>

#include "segnet_ext/dtypes.h"
#include "simd/levels.h"

namespace segnet_ext::simd {

// Calls Kernel::run<scalar_t>(args...) with the element type that `dtype` stands for.
template <class Kernel, class... Args>
void call_for_dtype(DType dtype, Args&&... args) {
  switch (dtype) {
    case DType::kFloat:
      return Kernel::template run<float>(std::forward<Args>(args)...);
    case DType::kDouble:
      return Kernel::template run<double>(std::forward<Args>(args)...);
    case DType::kBFloat16:
      return Kernel::template run<bfloat16>(std::forward<Args>(args)...);
    case DType::kHalf:
      return Kernel::template run<half>(std::forward<Args>(args)...);
  }
}

}  // namespace segnet_ext::simd

// Calls function(...) of the level in use, which foreach_level.h compiled for every level.
#if SEGNET_HAS_X86_LEVELS
#define SEGNET_CALL_FUNCTION_AT_LEVEL(function, ...) \
  switch (simd::level()) {                           \
    case simd::Level::kAvx2:                         \
      return avx2::function(__VA_ARGS__);            \
    case simd::Level::kAvx512:                       \
      return avx512::function(__VA_ARGS__);          \
    default:                                         \
      return portable::function(__VA_ARGS__);        \
  }
#else
#define SEGNET_CALL_FUNCTION_AT_LEVEL(function, ...) return portable::function(__VA_ARGS__)
#endif

// Calls Kernel::run<scalar_t>(...) of the level in use; Kernel is a class that foreach_level.h compiled for every
// level.
#if SEGNET_HAS_X86_LEVELS
#define SEGNET_CALL_AT_LEVEL(Kernel, dtype, ...)                         \
  switch (simd::level()) {                                               \
    case simd::Level::kPortable:                                         \
      return simd::call_for_dtype<portable::Kernel>(dtype, __VA_ARGS__); \
    case simd::Level::kAvx2:                                             \
      return simd::call_for_dtype<avx2::Kernel>(dtype, __VA_ARGS__);     \
    case simd::Level::kAvx512:                                           \
      return simd::call_for_dtype<avx512::Kernel>(dtype, __VA_ARGS__);   \
  }
#else
#define SEGNET_CALL_AT_LEVEL(Kernel, dtype, ...) return simd::call_for_dtype<portable::Kernel>(dtype, __VA_ARGS__)
#endif
