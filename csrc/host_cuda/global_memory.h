// The buffers that kernels may touch, and what else of the host program they may read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "host_cuda/host_cuda.h"

namespace host_cuda {

class GlobalMemory {
 public:
  void declare(const Buffers* owner, const void* data, size_t bytes, const char* name, bool writable);
  void forget(const Buffers* owner);

  void begin_launch();
  void check(uintptr_t address, size_t bytes, bool write, const void* code) {
    // Mostly one of the last buffers again; the test is false for addresses below the buffer too.
    for (const Buffer* hit : hits_) {
      if (hit != nullptr && bytes <= hit->bytes && address - hit->begin <= hit->bytes - bytes &&
          (hit->writable || !write)) {
        return;
      }
    }
    find(address, bytes, write, code);
  }

  // Around the two runs of a launch.
  void save();              // before the first
  void keep_and_restore();  // between them
  void compare();           // after the second; throws where a byte differs

 private:
  struct Buffer {
    const Buffers* owner;
    uintptr_t begin;
    size_t bytes;
    std::string name;
    bool writable;
    bool alone;  // overlaps no other
    std::vector<unsigned char> before, after;
  };
  struct Range {
    uintptr_t begin, end;
  };

  void find(uintptr_t address, size_t bytes, bool write, const void* code);
  bool in_program(uintptr_t address, size_t bytes);
  void list_program();
  [[noreturn]] void outside(uintptr_t address, size_t bytes, bool write, const void* code) const;

  std::vector<Buffer> buffers_;  // in the order of declaration
  const Buffer* hits_[3] = {};
  unsigned next_hit_ = 0;
  std::vector<Range> program_;  // loaded files and this thread's stack
  bool program_is_fresh_ = false;
};

}  // namespace host_cuda
