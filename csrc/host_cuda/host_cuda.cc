#include "host_cuda/host_cuda.h"

#include <cstdlib>
#include <cstring>

#include "host_cuda/executor.h"

namespace host_cuda {

Device& device() {
  static Device device = [] {
    const char* arch = std::getenv("SEGNET_EXT_EMULATED_ARCH");
    if (arch == nullptr || *arch == '\0' || std::strcmp(arch, "80") == 0) {
      return Device{80, 163 << 10};
    }
    if (std::strcmp(arch, "75") == 0) {
      return Device{75, 64 << 10};
    }
    throw std::runtime_error(std::string("SEGNET_EXT_EMULATED_ARCH must be 75 or 80, got ") + arch);
  }();
  return device;
}

Counters& counters() {
  return Executor::of_this_thread().counters();
}

Buffers::~Buffers() {
  Executor::of_this_thread().global().forget(this);
}

void Buffers::read(const void* data, size_t bytes, const char* name) {
  Executor::of_this_thread().global().declare(this, data, bytes, name, false);
}

void Buffers::write(void* data, size_t bytes, const char* name) {
  if (bytes != 0) {
    std::memset(data, 0xff, bytes);
  }
  update(data, bytes, name);
}

void Buffers::update(void* data, size_t bytes, const char* name) {
  Executor::of_this_thread().global().declare(this, data, bytes, name, true);
}

void launch_kernel(dim3 grid, dim3 block, size_t shared_bytes, Kernel kernel, const void* closure) {
  Executor::of_this_thread().launch(grid, block, shared_bytes, kernel, closure);
}

}  // namespace host_cuda
