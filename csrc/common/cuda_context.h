// Where an operation's kernels run: the device of its tensors, torch's current stream there, and what the device can
// do. With SEGNET_HOST_CUDA that is the tests' executor on the host.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/launcher.h"

#if defined(SEGNET_HOST_CUDA)
#include "host_cuda/host_cuda.h"
#else
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace segnet_ext {

class CudaContext {
 public:
#if defined(SEGNET_HOST_CUDA)
  explicit CudaContext(const at::Tensor&) : launcher_(host_cuda::device().arch, host_cuda::device().shared_limit) {}

  // Pointers for kernels, which may touch these bytes and no others.
  const void* read(const at::Tensor& tensor, const char* name) {
    buffers_.read(tensor.const_data_ptr(), tensor.nbytes(), name);
    return tensor.const_data_ptr();
  }
  void* write(const at::Tensor& tensor, const char* name) {
    buffers_.write(tensor.mutable_data_ptr(), tensor.nbytes(), name);
    return tensor.mutable_data_ptr();
  }
#else
  explicit CudaContext(const at::Tensor& tensor)
      : guard_(tensor.device()), launcher_(c10::cuda::getCurrentCUDAStream().stream(), arch(), shared_limit()) {}

  const void* read(const at::Tensor& tensor, const char*) { return tensor.const_data_ptr(); }
  void* write(const at::Tensor& tensor, const char*) { return tensor.mutable_data_ptr(); }
#endif

  const cuda::Launcher& launcher() const { return launcher_; }

 private:
#if defined(SEGNET_HOST_CUDA)
  host_cuda::Buffers buffers_;
#else
  static int attribute(cudaDeviceAttr name) {
    int device = 0, value = 0;
    C10_CUDA_CHECK(cudaGetDevice(&device));
    C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
    return value;
  }
  static int arch() {
    return 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  }
  static int64_t shared_limit() { return attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

  c10::cuda::CUDAGuard guard_;
#endif
  cuda::Launcher launcher_;
};

}  // namespace segnet_ext
