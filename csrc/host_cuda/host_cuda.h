// Executes CUDA kernels on the host, for tests on machines without a GPU: the keywords and built-ins that kernel files
// use, one fiber for each CUDA thread, and checks that a GPU does not make.
//
// A launch runs its grid twice: with blocks, warps and lanes in ascending order and asynchronous copies landing at
// once, then in descending order with copies landing as late as they may. What both runs leave in writable memory must
// be the same bytes. Every fault is thrown as a Fault once the kernel's stacks are left.
//
// Memory is checked by the compiler's instrumentation for the thread sanitizer, whose hooks are defined here
// (tsan_hooks.cc): files with kernels are compiled with SEGNET_EXT_KERNEL_FLAGS of CMakeLists.txt and linked without
// libtsan. The sources end in .cc to stay out of the build of the package, which takes csrc/*/*.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "host_cuda/builtins.h"
#include "host_cuda/numeric.h"

namespace host_cuda {

enum class FaultKind {
  kLaunch,        // a grid, block or amount of shared memory that no device takes
  kRace,          // two threads touch one byte of shared memory, one writes, and no barrier lies between
  kUnwritten,     // shared memory is read that the block has not written
  kInFlight,      // shared memory is touched that an asynchronous copy may still be writing
  kSharedBounds,  // outside the block's shared memory
  kGlobalBounds,  // outside every declared buffer, or across a buffer's end
  kReadOnly,      // a write to a buffer that is declared for reading, or to the host program's memory
  kLocal,         // another thread's local variables
  kMisaligned,    // an address that is no multiple of the access's size
  kBarrier,       // __syncthreads that not every thread of the block reaches
  kWarp,          // a warp collective that not every lane named in its mask reaches, or with other arguments
  kMetadata,      // sparsity metadata that names no two ascending positions
  kSchedule,      // the two runs leave different bytes
  kException,     // the kernel threw
};

class Fault : public std::runtime_error {
 public:
  Fault(FaultKind kind, const std::string& what) : std::runtime_error("host_cuda: " + what), kind_(kind) {}
  FaultKind kind() const { return kind_; }

 private:
  FaultKind kind_;
};

// The device that is pretended. SEGNET_EXT_EMULATED_ARCH=75 makes it one of compute capability 7.5.
struct Device {
  int arch;              // compute capability, 80 for 8.0
  int64_t shared_limit;  // bytes of shared memory that a block may ask for
};
Device& device();

// What this thread's launches have done; reset it by assignment. All but `switches` count a launch's first run alone.
struct Counters {
  int64_t launches = 0, blocks = 0, threads = 0;
  int64_t barriers = 0;
  int64_t mma = 0, mma_sparse = 0;    // one for each warp
  int64_t ldmatrix = 0;               // likewise
  int64_t bank_conflicts = 0;         // extra passes over the banks of shared memory that ldmatrix needed
  int64_t vector_bank_conflicts = 0;  // likewise, that 16-byte accesses and asynchronous copies needed
  int64_t async_copies = 0;           // of 16 bytes
  int64_t switches = 0;               // from fiber to fiber
};
Counters& counters();

// The global memory that this thread's launches may touch while the object lives. Of declarations that overlap the
// later one holds, so a workspace that one launch writes can be declared for reading before the next.
class Buffers {
 public:
  Buffers() = default;
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  ~Buffers();

  void read(const void* data, size_t bytes, const char* name);
  void write(void* data, size_t bytes, const char* name);   // filled with 0xff, a NaN in every floating-point type
  void update(void* data, size_t bytes, const char* name);  // writable, its content kept
};

using Kernel = void (*)(const void*);
void launch_kernel(dim3 grid, dim3 block, size_t shared_bytes, Kernel kernel, const void* closure);

// Calls body() once for each CUDA thread, twice over. Throws Fault; the executor stays usable.
template <class F>
void launch(dim3 grid, dim3 block, size_t shared_bytes, const F& body) {
#if !defined(__SANITIZE_THREAD__)
  static_assert(sizeof(F) == 0, "files with kernels are compiled with -fsanitize=thread, or nothing is checked");
#endif
  launch_kernel(grid, block, shared_bytes, [](const void* closure) { (*static_cast<const F*>(closure))(); }, &body);
}

}  // namespace host_cuda
