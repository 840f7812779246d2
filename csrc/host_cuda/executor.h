// Runs the threads of a grid as fibers, a block after another, and lets them meet in barriers and warp collectives.
#pragma once

#include <exception>

#include "host_cuda/fault.h"
#include "host_cuda/fibers.h"
#include "host_cuda/global_memory.h"
#include "host_cuda/host_cuda.h"
#include "host_cuda/shared_memory.h"

namespace host_cuda {

// Does a collective's work for all lanes in `mask`, once they are there: payloads[lane] is what the lane brought.
using Perform = void (*)(void* const* payloads, unsigned mask);

class Executor {
 public:
  Executor();
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  static Executor& of_this_thread();
  // The executor that runs a kernel in this thread, or null.
  static Executor* running() { return running_; }
  // For what only kernels may call.
  static Executor& of_kernel();

  void launch(dim3 grid, dim3 block, size_t shared_bytes, Kernel kernel, const void* closure);

  // Called by the kernel's threads.
  int barrier(bool predicate, Site site);
  void collective(unsigned mask, Perform perform, void* payload, Site site);
  void check_access(uintptr_t address, size_t bytes, bool write, bool aligned, const void* code) {
    if (address - own_stack_ < kStackBytes) {
      return;
    }
    if (aligned && (address & (bytes - 1)) != 0) {
      misaligned(address, bytes, code);
    }
    if (shared_.claims(address)) {
      if (bytes == SharedMemory::kVectorBytes) {
        note_vector(address, code);
      }
      write ? shared_.write(address, bytes, code) : shared_.read(address, bytes, code);
    } else {
      check_global(address, bytes, write, code);
    }
  }
  // Of an access of kVectorBytes to shared memory.
  void note_vector(uintptr_t address, const void* code) {
    if (!descending_) {
      shared_.note_vector(address, code);
    }
  }
  void check_global(uintptr_t address, size_t bytes, bool write, const void* code);
  [[noreturn]] void misaligned(uintptr_t address, size_t bytes, const void* code) const;
  [[noreturn]] void abandon(FaultKind kind, const char* what, const void* code);

  uint3 thread_index() const { return threads_[current_].index; }
  uint3 block_index() const { return block_index_; }
  dim3 block_size() const { return block_; }
  dim3 grid_size() const { return grid_; }
  unsigned lane() const { return current_ % kWarp; }
  unsigned warp() const { return current_ / kWarp; }

  SharedMemory& shared() { return shared_; }
  GlobalMemory& global() { return global_; }
  Counters& counters() { return counters_; }
  Counters& counting() { return descending_ ? not_counted_ : counters_; }

 private:
  // Not a power of two apart, or the tops of all stacks would share a few sets of the caches.
  static constexpr size_t kStackBytes = 64 << 10, kStackStride = kStackBytes + 17 * 64;

  struct Thread {
    Context context;
    uint3 index;
  };
  struct Wait {
    unsigned mask;
    Perform perform;
    void* payload;
    Site site;
  };
  struct Warp {
    unsigned exists, ready, waiting, exited;  // lanes
    Wait waits[kWarp];
  };
  struct Barrier {
    unsigned arrived = 0;
    int votes = 0, result = 0;
    Site site = {};
  };

  void run_grid(bool descending);
  void run_block();
  static void enter();
  void run_body();
  void make_ready(unsigned warp, unsigned lanes);
  bool pick(bool from_the_start);
  void park(bool from_the_start);
  void exit_thread();
  bool meets(const Wait& wait, unsigned lane) const;
  [[noreturn]] void fail_stuck();

  // Read by every access of instrumented code, so without the checks that a dynamic initialiser would need.
  static __thread Executor* running_ __attribute__((tls_model("initial-exec")));

  char* stacks_;
  uintptr_t own_stack_ = 0;
  Thread threads_[kMaxThreads];
  Warp warps_[kMaxThreads / kWarp];
  Context main_;

  dim3 grid_, block_;
  uint3 block_index_ = {};
  unsigned thread_count_ = 0, exited_ = 0, current_ = 0;
  unsigned ready_warps_ = 0;
  bool descending_ = false;
  Barrier barrier_;
  Kernel kernel_ = nullptr;
  const void* closure_ = nullptr;
  std::exception_ptr fault_;
  char exception_text_[256] = {};

  SharedMemory shared_;
  GlobalMemory global_;
  Counters counters_, not_counted_;
};

}  // namespace host_cuda
