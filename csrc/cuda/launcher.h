// Where kernels are started. For the files that choose and feed them; cuda/launch.h has what starts them.
#pragma once

#include <cstdint>

namespace segnet_ext::cuda {

struct LaunchConfig;

// Threads that fill a large GPU; beyond that many a thread is given more items.
constexpr int64_t kThreadsToFill = 256 * 1024;

// Starts kernels one after another in one place; what it asks the device for decides how they are tiled.
class Launcher {
 public:
  // On a CUDA stream (cudaStream_t), or by the tests' executor on the host.
  Launcher(void* stream, int arch, int64_t shared_limit) : stream_(stream), arch_(arch), shared_limit_(shared_limit) {}
  Launcher(int arch, int64_t shared_limit) : Launcher(nullptr, arch, shared_limit) {}

  int arch() const { return arch_; }                      // compute capability, 75 for 7.5
  int64_t shared_limit() const { return shared_limit_; }  // bytes of shared memory that a block may ask for

  // Defined by cuda/launch.h.
  template <class Params>
  void operator()(void (*kernel)(Params), const LaunchConfig& config, const Params& params) const;

 private:
  void* stream_;
  int arch_;
  int64_t shared_limit_;
};

}  // namespace segnet_ext::cuda
