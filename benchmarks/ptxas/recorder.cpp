// Takes the place of CUDA's runtime library for the .cu files beside it: defines what nvcc's launch code calls
// (crt/host_runtime.h), and prints each launch as
//
//   case <tab> kernel's name in the object file <tab> blocks <tab> threads of a block <tab> bytes of dynamic shared
//   memory

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace segnet_ext::record {

const char* current_case = "";
void run_for(int arch, int64_t shared_limit);

}  // namespace segnet_ext::record

namespace {

struct Extent {  // dim3
  unsigned x, y, z;
};

struct Configuration {
  Extent grid, block;
  size_t shared_bytes;
  void* stream;
};

Configuration pending;

// By the address that host code knows a kernel by. Inside a function, since kernels are registered before main.
std::map<const void*, const char*>& kernel_names() {
  static std::map<const void*, const char*> names;
  return names;
}

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  return nullptr;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) {
  return 1;
}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*, int*) {
  kernel_names()[host] = name;
}
unsigned __cudaPushCallConfiguration(Extent grid, Extent block, size_t shared_bytes, void* stream) {
  pending = {grid, block, shared_bytes, stream};
  return 0;
}
int __cudaPopCallConfiguration(Extent* grid, Extent* block, size_t* shared_bytes, void** stream) {
  *grid = pending.grid;
  *block = pending.block;
  *shared_bytes = pending.shared_bytes;
  *stream = pending.stream;
  return 0;
}
int __cudaGetKernel(const void** kernel, const void* host) {
  *kernel = host;
  return 0;
}
int __cudaLaunchKernel(const void* kernel, Extent grid, Extent block, void**, size_t shared_bytes, void*) {
  std::printf("%s\t%s\t%llu\t%u\t%zu\n", segnet_ext::record::current_case, kernel_names().at(kernel),
              1ull * grid.x * grid.y * grid.z, block.x * block.y * block.z, shared_bytes);
  return 0;
}
int cudaLaunchKernel(const void* host, Extent grid, Extent block, void** arguments, size_t shared_bytes, void* stream) {
  return __cudaLaunchKernel(host, grid, block, arguments, shared_bytes, stream);
}
int cudaFuncSetAttribute(const void*, int, int) {
  return 0;
}
int cudaGetLastError() {
  return 0;
}
const char* cudaGetErrorString(int) {
  return "";
}

}  // extern "C"

// Arguments: the architecture (75 for 7.5), and the bytes of shared memory that a block may ask for there.
int main(int count, char** arguments) {
  if (count != 3) {
    return 2;
  }
  segnet_ext::record::run_for(std::atoi(arguments[1]), std::atoll(arguments[2]));
}
