// From a map's device to the kernels that run there.
#pragma once

#include <ATen/core/Tensor.h>

namespace segnet_ext {

#if defined(SEGNET_EXT_WITH_CUDA) || defined(SEGNET_HOST_CUDA)
constexpr bool kHasCudaKernels = true;
#else
constexpr bool kHasCudaKernels = false;
#endif

// Does an operation on `map` run the CUDA kernels? In the tests' build for the host executor all of them do.
inline bool runs_on_cuda([[maybe_unused]] const at::Tensor& map) {
#if defined(SEGNET_HOST_CUDA)
  return true;
#else
  return map.is_cuda();
#endif
}

// Are there kernels for the device of `tensor` in this build?
inline bool has_kernels_for(const at::Tensor& tensor) {
  return tensor.is_cpu() || (kHasCudaKernels && tensor.is_cuda());
}
constexpr const char* kDevicesText = kHasCudaKernels ? "cpu or cuda" : "cpu";

}  // namespace segnet_ext

// function_cuda(...) or function_cpu(...), by the device of `map`. A build without CUDA has no function_cuda to link.
#define SEGNET_DISPATCH(map, function, ...)        \
  [&] {                                            \
    if constexpr (::segnet_ext::kHasCudaKernels) { \
      if (::segnet_ext::runs_on_cuda(map)) {       \
        return function##_cuda(__VA_ARGS__);       \
      }                                            \
    }                                              \
    return function##_cpu(__VA_ARGS__);            \
  }()
