// The shared memory of the running block, with a record for every byte, or for whole words where no single byte of them
// is touched, of who wrote and read it last.
//
// Two accesses of one byte by two threads, one of them a write, must be ordered: by __syncthreads, or within a warp by
// __syncwarp of both. The order is known exactly, so a race is found in whatever order the threads happen to run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "host_cuda/host_cuda.h"

namespace host_cuda {

constexpr unsigned kWarp = 32;
constexpr unsigned kMaxThreads = 1024;

class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  unsigned char* data() const { return data_; }
  // Is the address in the block's shared memory, or so near that it was meant to be?
  bool claims(uintptr_t address) const { return address - reinterpret_cast<uintptr_t>(arena_) < kArenaBytes; }

  void begin_launch(size_t bytes, bool copies_land_late);
  void begin_block();
  void block_barrier();
  void warp_barrier(unsigned warp, unsigned mask);
  void set_thread(unsigned thread) {
    thread_ = thread;
    known_ = clocks_[thread / kWarp].known[thread % kWarp];
  }

  // Remembers an access of kVectorBytes by the thread of set_thread.
  void note_vector(uintptr_t address, const void* code) { vectors_.push_back({code, thread_, address}); }
  // Extra passes over the banks that the accesses remembered since the last call needed. Hardware serves eight threads
  // at a time, whose n-th accesses from the same place in the code are taken for one instruction.
  int64_t take_bank_conflicts();

  void read(uintptr_t address, size_t bytes, const void* code);
  void write(uintptr_t address, size_t bytes, const void* code);

  static constexpr size_t kVectorBytes = 16;

  // cp.async by the thread of set_thread: a null source writes zeros.
  void copy_async(void* to, const void* from, const void* code);
  void commit_copies();
  void wait_for_copies(int pending);

 private:
  static constexpr size_t kGuard = 64 << 10, kMaxBytes = 256 << 10, kArenaBytes = kMaxBytes + 2 * kGuard;
  static constexpr size_t kCopyBytes = kVectorBytes, kWordBytes = 4;
  static constexpr uint16_t kInFlight = 0x8000;  // beside the thread's number: an asynchronous copy is the writer

  // Time is the epoch, which begins with each block and each __syncthreads, and in it a clock for each lane, which
  // ticks with its __syncwarps.
  struct Written {
    uint32_t epoch;
    uint16_t clock;
    uint16_t thread;
  };
  struct Readers {
    uint32_t epoch;
    uint32_t lanes;
    uint16_t clock;  // of the latest
    uint8_t warp;
    bool other_warps;
  };
  struct Cell {
    Written written;
    Readers readers;
  };
  struct WarpClocks {
    uint16_t known[kWarp][kWarp];  // [lane][other]: the tick of `other` up to which `lane` has met it
    bool ticked;
  };
  struct VectorAccess {
    const void* code;
    unsigned thread;
    uintptr_t address;
  };
  struct Copy {
    unsigned char* to;
    const void* from;
    unsigned group;
  };
  struct Copies {
    std::vector<Copy> under_way;
    unsigned group = 0;  // the one that is being filled
  };

  size_t offset_of(uintptr_t address, size_t bytes, const char* what, const void* code) const;
  uint16_t clock() const { return known_[thread_ % kWarp]; }
  bool has_met(unsigned thread, uint16_t clock) const {
    return thread == thread_ || (thread / kWarp == thread_ / kWarp && known_[thread % kWarp] >= clock);
  }
  template <class Visit>
  void for_each_cell(size_t begin, size_t bytes, const Visit& visit);
  void check_writer(const Written& by, size_t offset, const char* what, const void* code) const;
  void check_readers(const Readers& by, size_t offset, const void* code) const;
  void add_reader(Readers& readers) const;
  void land(const Copy& copy);
  void reset_clocks(WarpClocks& clocks);

  unsigned char* arena_;  // a guard, shared memory, a guard
  unsigned char* data_;
  size_t bytes_ = 0;
  bool copies_land_late_ = false;
  std::vector<Cell> words_, bytewise_;
  std::vector<uint32_t> split_;  // of a word: the start of the block in which its bytes' cells are in use
  std::unique_ptr<WarpClocks[]> clocks_;
  std::unique_ptr<Copies[]> copies_;
  std::vector<VectorAccess> vectors_;
  uint32_t epoch_ = 1, block_began_ = 1;
  unsigned thread_ = 0;
  const uint16_t* known_ = nullptr;  // the row of thread_
};

}  // namespace host_cuda
