// How kernels are started: on a CUDA stream, or by the tests' executor on the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/launcher.h"
#include "cuda/platform.cuh"

namespace segnet_ext::cuda {

struct LaunchConfig {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic
};

// The x extent of a grid, checked against CUDA's limit.
inline unsigned grid_size(int64_t blocks) {
  if (blocks < 1 || blocks > 0x7fffffff) {
    throw std::runtime_error("a CUDA grid must have 1 to 2147483647 blocks, got " + std::to_string(blocks) +
                             ": the map is too large");
  }
  return static_cast<unsigned>(blocks);
}

// A map's rows, columns or channels, which kernels count by 32-bit numbers; a tile may end past the last one.
inline void check_extent(const char* name, int64_t extent) {
  constexpr int64_t kMost = INT32_MAX - 1024;
  if (extent > kMost) {
    throw std::runtime_error(std::string("a map on CUDA must have at most ") + std::to_string(kMost) + " " + name +
                             ", got " + std::to_string(extent));
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Kernels with a thread for each element: threads of their blocks, the grid, and the calling thread's element, which
// may lie past the last one.
constexpr int kElementThreads = 256;

inline LaunchConfig element_config(int64_t elements) {
  return {grid_size(ceil_div(elements, kElementThreads)), kElementThreads};
}

SEGNET_DEVICE int64_t element_index() {
  return static_cast<int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
}

#if defined(__CUDACC__)
inline void check_launch(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA kernel launch failed: ") + cudaGetErrorString(error));
  }
}
#endif

template <class Params>
void Launcher::operator()(void (*kernel)(Params), const LaunchConfig& config, const Params& params) const {
#if defined(__CUDACC__)
  constexpr size_t kWithoutAsking = 48 << 10;
  if (config.shared_bytes > kWithoutAsking) {
    check_launch(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(config.shared_bytes)));
  }
  kernel<<<config.grid, config.block, config.shared_bytes, static_cast<cudaStream_t>(stream_)>>>(params);
  check_launch(cudaGetLastError());
#else
  if (static_cast<int64_t>(config.shared_bytes) > shared_limit_) {
    throw std::runtime_error("a kernel asks for more shared memory than the device has: " +
                             std::to_string(config.shared_bytes));
  }
  host_cuda::launch(config.grid, config.block, config.shared_bytes, [&] { kernel(params); });
#endif
}

}  // namespace segnet_ext::cuda
