// Where an operation's kernels run: the device of its tensors, torch's current stream there, and what the device can
// do. With SEGNET_HOST_CUDA that is the tests' executor on the host.
#pragma once

#include <ATen/core/Tensor.h>

#include "cuda/launcher.h"

#if defined(SEGNET_HOST_CUDA)
#include "host_cuda/host_cuda.h"
#else
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <vector>
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
      : guard_(tensor.device()),
        launcher_(c10::cuda::getCurrentCUDAStream().stream(), gpu(tensor.get_device()).arch,
                  gpu(tensor.get_device()).shared_limit) {}

  const void* read(const at::Tensor& tensor, const char*) { return tensor.const_data_ptr(); }
  void* write(const at::Tensor& tensor, const char*) { return tensor.mutable_data_ptr(); }
#endif

  const cuda::Launcher& launcher() const { return launcher_; }

 private:
#if defined(SEGNET_HOST_CUDA)
  host_cuda::Buffers buffers_;
#else
  struct Gpu {
    int arch;
    int64_t shared_limit;
  };
  // Asked once: every call of an operation needs it, some several times.
  static const Gpu& gpu(int device) {
    static const std::vector<Gpu> gpus = [] {
      std::vector<Gpu> all(static_cast<size_t>(c10::cuda::device_count()));
      for (int i = 0; i < static_cast<int>(all.size()); ++i) {
        const auto attribute = [i](cudaDeviceAttr name) {
          int value = 0;
          C10_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, i));
          return value;
        };
        all[static_cast<size_t>(i)] = {
            10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
      }
      return all;
    }();
    return gpus[static_cast<size_t>(device)];
  }

  c10::cuda::CUDAGuard guard_;
#endif
  cuda::Launcher launcher_;
};

}  // namespace segnet_ext
