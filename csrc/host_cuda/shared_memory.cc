#include "host_cuda/shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

#include "host_cuda/fault.h"

namespace host_cuda {

SharedMemory::SharedMemory() : clocks_(new WarpClocks[kMaxThreads / kWarp]), copies_(new Copies[kMaxThreads]) {
  void* arena = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (arena == MAP_FAILED) {
    throw std::bad_alloc();
  }
  arena_ = static_cast<unsigned char*>(arena);
  data_ = arena_ + kGuard;
  for (unsigned i = 0; i < kMaxThreads / kWarp; ++i) {
    reset_clocks(clocks_[i]);
  }
  set_thread(0);
}

SharedMemory::~SharedMemory() {
  munmap(arena_, kArenaBytes);
}

void SharedMemory::begin_launch(size_t bytes, bool copies_land_late) {
  if (bytes > kMaxBytes) {
    throw Fault(FaultKind::kLaunch, "no device has " + std::to_string(bytes) + " bytes of shared memory for a block");
  }
  bytes_ = bytes;
  copies_land_late_ = copies_land_late;
  const size_t words = (bytes + kWordBytes - 1) / kWordBytes;
  if (words_.size() < words) {
    words_.resize(words);
    split_.resize(words);
    bytewise_.resize(words * kWordBytes);
  }
}

void SharedMemory::begin_block() {
  // A stale value that happens to be right would hide a missing write from a build without instrumentation.
  std::memset(data_, 0xff, bytes_);
  for (unsigned i = 0; i < kMaxThreads; ++i) {
    copies_[i].under_way.clear();
    copies_[i].group = 0;
  }
  vectors_.clear();
  block_barrier();
  block_began_ = epoch_;
}

void SharedMemory::reset_clocks(WarpClocks& clocks) {
  std::memset(clocks.known, 0, sizeof(clocks.known));
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    clocks.known[lane][lane] = 1;
  }
  clocks.ticked = false;
}

void SharedMemory::block_barrier() {
  ++epoch_;
  for (unsigned i = 0; i < kMaxThreads / kWarp; ++i) {
    if (clocks_[i].ticked) {
      reset_clocks(clocks_[i]);
    }
  }
}

void SharedMemory::warp_barrier(unsigned warp, unsigned mask) {
  WarpClocks& clocks = clocks_[warp];
  clocks.ticked = true;
  uint16_t met[kWarp] = {};
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    for (unsigned other = 0; other < kWarp && (mask >> lane & 1); ++other) {
      met[other] = std::max(met[other], clocks.known[lane][other]);
    }
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (mask >> lane & 1) {
      std::memcpy(clocks.known[lane], met, sizeof(met));
      if (++clocks.known[lane][lane] == UINT16_MAX) {
        fail(FaultKind::kWarp, nullptr, "more __syncwarps between two __syncthreads than can be counted");
      }
    }
  }
}

int64_t SharedMemory::take_bank_conflicts() {
  constexpr unsigned kTogether = 8;
  constexpr uintptr_t kVectorsInBanks = 8;  // 32 banks of 4 bytes
  const auto instruction = [](const VectorAccess& a) { return std::pair(a.thread / kTogether, a.code); };
  std::stable_sort(vectors_.begin(), vectors_.end(), [&](const VectorAccess& a, const VectorAccess& b) {
    return std::pair(instruction(a), a.thread) < std::pair(instruction(b), b.thread);
  });
  int64_t conflicts = 0;
  std::vector<std::vector<uintptr_t>> executions;  // of one instruction: the addresses of each, none twice
  for (auto access = vectors_.begin(); access != vectors_.end();) {
    const auto first = access;
    executions.clear();
    for (unsigned thread = ~0u, n = 0; access != vectors_.end() && instruction(*access) == instruction(*first);
         ++access) {
      n = access->thread == thread ? n + 1 : 0;
      thread = access->thread;
      if (executions.size() <= n) {
        executions.emplace_back();
      }
      if (std::find(executions[n].begin(), executions[n].end(), access->address) == executions[n].end()) {
        executions[n].push_back(access->address);
      }
    }
    for (const auto& addresses : executions) {
      int passes[kVectorsInBanks] = {};
      for (const uintptr_t address : addresses) {
        ++passes[address / kVectorBytes % kVectorsInBanks];
      }
      conflicts += *std::max_element(std::begin(passes), std::end(passes)) - 1;
    }
  }
  vectors_.clear();
  return conflicts;
}

size_t SharedMemory::offset_of(uintptr_t address, size_t bytes, const char* what, const void* code) const {
  const auto offset = static_cast<ptrdiff_t>(address - reinterpret_cast<uintptr_t>(data_));
  if (offset < 0 || static_cast<size_t>(offset) + bytes > bytes_) {
    fail(FaultKind::kSharedBounds, code, "%s of %zu bytes at offset %td of shared memory, which has %zu bytes", what,
         bytes, offset, bytes_);
  }
  return static_cast<size_t>(offset);
}

// Calls visit(cell, offset) for the cells that stand for these bytes.
template <class Visit>
void SharedMemory::for_each_cell(size_t begin, size_t bytes, const Visit& visit) {
  const size_t end = begin + bytes;
  for (size_t i = begin; i < end;) {
    const size_t word = i / kWordBytes;
    const bool split = split_[word] == block_began_;
    if (i % kWordBytes == 0 && end - i >= kWordBytes && !split) {
      visit(words_[word], i);
      i += kWordBytes;
      continue;
    }
    if (!split) {
      std::fill_n(bytewise_.begin() + static_cast<ptrdiff_t>(word * kWordBytes), kWordBytes, words_[word]);
      split_[word] = block_began_;
    }
    visit(bytewise_[i], i);
    ++i;
  }
}

void SharedMemory::check_writer(const Written& by, size_t offset, const char* what, const void* code) const {
  const unsigned thread = by.thread & ~kInFlight;
  if (by.epoch < block_began_) {
    return;
  }
  if (by.thread & kInFlight) {
    fail(FaultKind::kInFlight, code,
         "%s of byte %zu of shared memory, which an asynchronous copy of thread %u writes that nothing has waited for",
         what, offset, thread);
  }
  if (by.epoch == epoch_ && !has_met(thread, by.clock)) {
    fail(FaultKind::kRace, code, "%s of byte %zu of shared memory, which thread %u wrote with no barrier in between",
         what, offset, thread);
  }
}

void SharedMemory::check_readers(const Readers& by, size_t offset, const void* code) const {
  if (by.other_warps) {
    fail(FaultKind::kRace, code,
         "write of byte %zu of shared memory, which several warps read with no barrier in between", offset);
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((by.lanes >> lane & 1) && !has_met(by.warp * kWarp + lane, by.clock)) {
      fail(FaultKind::kRace, code,
           "write of byte %zu of shared memory, which thread %u read with no barrier in between", offset,
           by.warp * kWarp + lane);
    }
  }
}

void SharedMemory::read(uintptr_t address, size_t bytes, const void* code) {
  const size_t begin = offset_of(address, bytes, "read", code);
  const unsigned warp = thread_ / kWarp;
  const uint32_t lane = 1u << thread_ % kWarp;
  const uint16_t now = clock();
  for_each_cell(begin, bytes, [&](Cell& cell, size_t offset) {
    const Written& by = cell.written;
    if (by.epoch < block_began_) {
      fail(FaultKind::kUnwritten, code, "read of byte %zu of shared memory, which the block has not written", offset);
    }
    if (by.epoch == epoch_ || (by.thread & kInFlight)) {
      check_writer(by, offset, "read", code);
    }
    Readers& readers = cell.readers;
    if (readers.epoch != epoch_) {
      readers = {epoch_, lane, now, static_cast<uint8_t>(warp), false};
    } else if (readers.warp != warp) {
      readers.other_warps = true;
    } else if (readers.clock == now) {
      readers.lanes |= lane;
    } else {
      add_reader(readers);
    }
  });
}

// Readers that this thread has met need no record: who has met this one has met them too.
void SharedMemory::add_reader(Readers& readers) const {
  const uint32_t lane = 1u << thread_ % kWarp;
  bool all_met = true;
  for (unsigned other = 0; other < kWarp; ++other) {
    all_met = all_met && (!(readers.lanes >> other & 1) || has_met(readers.warp * kWarp + other, readers.clock));
  }
  readers.lanes = all_met ? lane : readers.lanes | lane;
  readers.clock = all_met ? clock() : std::max(readers.clock, clock());
}

void SharedMemory::write(uintptr_t address, size_t bytes, const void* code) {
  const size_t begin = offset_of(address, bytes, "write", code);
  const uint32_t lane = 1u << thread_ % kWarp;
  const Written now = {epoch_, clock(), static_cast<uint16_t>(thread_)};
  for_each_cell(begin, bytes, [&](Cell& cell, size_t offset) {
    if (cell.written.epoch == epoch_ || (cell.written.thread & kInFlight)) {
      check_writer(cell.written, offset, "write", code);
    }
    const Readers& readers = cell.readers;
    if (readers.epoch == epoch_ && (readers.lanes != lane || readers.other_warps || readers.warp != thread_ / kWarp)) {
      check_readers(readers, offset, code);
    }
    cell.written = now;
  });
}

void SharedMemory::copy_async(void* to, const void* from, const void* code) {
  const auto address = reinterpret_cast<uintptr_t>(to);
  write(address, kCopyBytes, code);
  for_each_cell(offset_of(address, kCopyBytes, "copy", code), kCopyBytes,
                [](Cell& cell, size_t) { cell.written.thread |= kInFlight; });
  Copies& copies = copies_[thread_];
  copies.under_way.push_back({static_cast<unsigned char*>(to), from, copies.group});
  if (!copies_land_late_) {
    land(copies.under_way.back());
  }
}

void SharedMemory::land(const Copy& copy) {
  if (copy.from != nullptr) {
    std::memcpy(copy.to, copy.from, kCopyBytes);
  } else {
    std::memset(copy.to, 0, kCopyBytes);
  }
}

void SharedMemory::commit_copies() {
  ++copies_[thread_].group;
}

void SharedMemory::wait_for_copies(int pending) {
  Copies& copies = copies_[thread_];
  auto kept = copies.under_way.begin();
  for (const Copy& copy : copies.under_way) {
    if (copy.group + static_cast<unsigned>(pending) >= copies.group) {
      *kept++ = copy;
      continue;
    }
    if (copies_land_late_) {
      land(copy);
    }
    const Written now = {epoch_, clock(), static_cast<uint16_t>(thread_)};
    for_each_cell(static_cast<size_t>(copy.to - data_), kCopyBytes, [&](Cell& cell, size_t) { cell.written = now; });
  }
  copies.under_way.erase(kept, copies.under_way.end());
}

}  // namespace host_cuda
