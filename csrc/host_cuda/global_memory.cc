#include "host_cuda/global_memory.h"

#include <link.h>
#include <pthread.h>

#include <algorithm>
#include <cstring>

#include "host_cuda/fault.h"

namespace host_cuda {

void GlobalMemory::declare(const Buffers* owner, const void* data, size_t bytes, const char* name, bool writable) {
  if (bytes == 0) {
    return;
  }
  const auto begin = reinterpret_cast<uintptr_t>(data);
  buffers_.erase(std::remove_if(buffers_.begin(), buffers_.end(),
                                [&](const Buffer& buffer) {
                                  return buffer.owner == owner && buffer.begin == begin && buffer.bytes == bytes;
                                }),
                 buffers_.end());
  buffers_.push_back({owner, begin, bytes, name, writable, true, {}, {}});
}

void GlobalMemory::forget(const Buffers* owner) {
  buffers_.erase(
      std::remove_if(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) { return buffer.owner == owner; }),
      buffers_.end());
}

void GlobalMemory::begin_launch() {
  for (Buffer& buffer : buffers_) {
    buffer.alone = std::none_of(buffers_.begin(), buffers_.end(), [&](const Buffer& other) {
      return &other != &buffer && other.begin < buffer.begin + buffer.bytes && buffer.begin < other.begin + other.bytes;
    });
  }
  std::fill(std::begin(hits_), std::end(hits_), nullptr);
  program_is_fresh_ = false;
}

void GlobalMemory::find(uintptr_t address, size_t bytes, bool write, const void* code) {
  for (auto buffer = buffers_.rbegin(); buffer != buffers_.rend(); ++buffer) {
    if (bytes > buffer->bytes || address - buffer->begin > buffer->bytes - bytes) {
      continue;
    }
    if (write && !buffer->writable) {
      fail(FaultKind::kReadOnly, code, "write of %zu bytes at offset %zu of '%s', which is declared for reading", bytes,
           static_cast<size_t>(address - buffer->begin), buffer->name.c_str());
    }
    if (buffer->alone) {
      hits_[next_hit_] = &*buffer;
      next_hit_ = (next_hit_ + 1) % (sizeof(hits_) / sizeof(*hits_));
    }
    return;
  }
  if (!in_program(address, bytes)) {
    outside(address, bytes, write, code);
  }
  if (write) {
    fail(FaultKind::kReadOnly, code, "write of %zu bytes to memory of the host program", bytes);
  }
}

// Constant tables, and what the launching function passes by reference.
bool GlobalMemory::in_program(uintptr_t address, size_t bytes) {
  const auto known = [&] {
    return std::any_of(program_.begin(), program_.end(),
                       [&](const Range& range) { return address >= range.begin && address + bytes <= range.end; });
  };
  if (!known() && !program_is_fresh_) {
    program_is_fresh_ = true;
    list_program();
  }
  return known();
}

void GlobalMemory::list_program() {
  program_.clear();
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    void* stack = nullptr;
    size_t size = 0;
    pthread_attr_getstack(&attributes, &stack, &size);
    pthread_attr_destroy(&attributes);
    program_.push_back({reinterpret_cast<uintptr_t>(stack), reinterpret_cast<uintptr_t>(stack) + size});
  }
  const auto add_segments = [](dl_phdr_info* info, size_t, void* ranges) {
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const auto& segment = info->dlpi_phdr[i];
      if (segment.p_type == PT_LOAD) {
        const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
        static_cast<std::vector<Range>*>(ranges)->push_back({begin, begin + segment.p_memsz});
      }
    }
    return 0;
  };
  dl_iterate_phdr(add_segments, &program_);
}

void GlobalMemory::outside(uintptr_t address, size_t bytes, bool write, const void* code) const {
  const char* what = write ? "write" : "read";
  const Buffer* nearest = nullptr;
  uintptr_t distance = 1 << 20;  // farther away nothing is worth naming
  for (const Buffer& buffer : buffers_) {
    const uintptr_t end = buffer.begin + buffer.bytes;
    const uintptr_t away = address + bytes <= buffer.begin ? buffer.begin - address : address < end ? 0 : address - end;
    if (away < distance) {
      distance = away;
      nearest = &buffer;
    }
  }
  if (nearest == nullptr) {
    fail(FaultKind::kGlobalBounds, code, "%s of %zu bytes in no declared buffer", what, bytes);
  }
  fail(FaultKind::kGlobalBounds, code, "%s of %zu bytes at offset %td of '%s', which has %zu bytes", what, bytes,
       static_cast<ptrdiff_t>(address - nearest->begin), nearest->name.c_str(), nearest->bytes);
}

void GlobalMemory::save() {
  for (Buffer& buffer : buffers_) {
    if (buffer.writable) {
      const auto* data = reinterpret_cast<const unsigned char*>(buffer.begin);
      buffer.before.assign(data, data + buffer.bytes);
    }
  }
}

void GlobalMemory::keep_and_restore() {
  for (Buffer& buffer : buffers_) {
    if (buffer.writable) {
      const auto* data = reinterpret_cast<const unsigned char*>(buffer.begin);
      buffer.after.assign(data, data + buffer.bytes);
    }
  }
  for (Buffer& buffer : buffers_) {
    if (buffer.writable) {
      std::memcpy(reinterpret_cast<void*>(buffer.begin), buffer.before.data(), buffer.bytes);
    }
  }
}

void GlobalMemory::compare() {
  for (const Buffer& buffer : buffers_) {
    if (!buffer.writable) {
      continue;
    }
    const auto* data = reinterpret_cast<const unsigned char*>(buffer.begin);
    const auto differs = std::mismatch(buffer.after.begin(), buffer.after.end(), data).first;
    if (differs != buffer.after.end()) {
      throw Fault(FaultKind::kSchedule,
                  "result depends on scheduling: the runs in ascending and descending order leave "
                  "different bytes at offset " +
                      std::to_string(differs - buffer.after.begin()) + " of '" + buffer.name + "'");
    }
  }
}

}  // namespace host_cuda
