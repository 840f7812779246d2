#include "host_cuda/executor.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

namespace host_cuda {

__thread Executor* Executor::running_ = nullptr;

Executor::Executor() {
  // Pages are taken as kernels touch them.
  void* stacks = mmap(nullptr, kMaxThreads * kStackStride, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stacks == MAP_FAILED) {
    throw std::bad_alloc();
  }
  stacks_ = static_cast<char*>(stacks);
}

Executor::~Executor() {
  munmap(stacks_, kMaxThreads * kStackStride);
}

Executor& Executor::of_this_thread() {
  static thread_local const auto executor = std::make_unique<Executor>();
  return *executor;
}

Executor& Executor::of_kernel() {
  if (running_ == nullptr) {
    throw Fault(FaultKind::kLaunch, "a device function is called outside of a kernel");
  }
  return *running_;
}

void Executor::launch(dim3 grid, dim3 block, size_t shared_bytes, Kernel kernel, const void* closure) {
  if (running_ != nullptr) {
    throw Fault(FaultKind::kLaunch, "a kernel is launched inside of a kernel");
  }
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads < 1 || threads > kMaxThreads || block.z > 64) {
    throw Fault(FaultKind::kLaunch, "no device takes a block of " + std::to_string(block.x) + " x " +
                                        std::to_string(block.y) + " x " + std::to_string(block.z) + " threads");
  }
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffff || grid.y > 0xffff || grid.z > 0xffff) {
    throw Fault(FaultKind::kLaunch, "no device takes a grid of " + std::to_string(grid.x) + " x " +
                                        std::to_string(grid.y) + " x " + std::to_string(grid.z) + " blocks");
  }
  if (shared_bytes > static_cast<size_t>(device().shared_limit)) {
    throw Fault(FaultKind::kLaunch, "a block asks for " + std::to_string(shared_bytes) +
                                        " bytes of shared memory, the device has " +
                                        std::to_string(device().shared_limit));
  }
  grid_ = grid;
  block_ = block;
  kernel_ = kernel;
  closure_ = closure;
  thread_count_ = static_cast<unsigned>(threads);
  for (unsigned i = 0; i < thread_count_; ++i) {
    threads_[i].index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
  }
  global_.begin_launch();
  global_.save();
  for (const bool descending : {false, true}) {
    shared_.begin_launch(shared_bytes, descending);
    run_grid(descending);
    descending ? global_.compare() : global_.keep_and_restore();
  }
  ++counters_.launches;
}

void Executor::run_grid(bool descending) {
  descending_ = descending;
  struct Running {
    explicit Running(Executor* executor) { running_ = executor; }
    ~Running() { running_ = nullptr; }
  } running(this);
  const uint64_t blocks = uint64_t{grid_.x} * grid_.y * grid_.z;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t block = descending ? blocks - 1 - i : i;
    block_index_ = {static_cast<unsigned>(block % grid_.x), static_cast<unsigned>(block / grid_.x % grid_.y),
                    static_cast<unsigned>(block / grid_.x / grid_.y)};
    run_block();
    if (fault_) {
      std::rethrow_exception(std::exchange(fault_, nullptr));
    }
    counting().vector_bank_conflicts += shared_.take_bank_conflicts();
    ++counting().blocks;
    counting().threads += thread_count_;
  }
}

void Executor::run_block() {
  shared_.begin_block();
  barrier_ = Barrier();
  exited_ = 0;
  ready_warps_ = 0;
  for (unsigned warp = 0; warp * kWarp < thread_count_; ++warp) {
    const unsigned left = thread_count_ - warp * kWarp;
    const unsigned lanes = left >= kWarp ? 0xffffffffu : (1u << left) - 1;
    warps_[warp].exists = lanes;
    warps_[warp].ready = warps_[warp].waiting = warps_[warp].exited = 0;
    make_ready(warp, lanes);
  }
  for (unsigned i = 0; i < thread_count_; ++i) {
    prepare(threads_[i].context, stacks_ + i * kStackStride, kStackBytes, &Executor::enter);
  }
  pick(true);
  switch_context(main_, threads_[current_].context);
}

void Executor::enter() {
  Executor& executor = *running_;
  executor.run_body();
  executor.exit_thread();
}

void Executor::run_body() {
  try {
    kernel_(closure_);
    return;
  } catch (const std::exception& exception) {
    std::snprintf(exception_text_, sizeof(exception_text_), "%s", exception.what());
  } catch (...) {
    std::snprintf(exception_text_, sizeof(exception_text_), "no std::exception");
  }
  // Outside of the handler, which must be left in order.
  fail(FaultKind::kException, nullptr, "the kernel threw an exception: %s", exception_text_);
}

void Executor::make_ready(unsigned warp, unsigned lanes) {
  warps_[warp].ready |= lanes;
  ready_warps_ |= 1u << warp;
}

// The next of a set in the run's order, going around behind `current`; the set is not empty.
static unsigned next_in(unsigned set, unsigned current, bool descending) {
  if (descending) {
    const unsigned below = set & ((1u << current) - 1);
    return 31 - static_cast<unsigned>(__builtin_clz(below != 0 ? below : set));
  }
  const unsigned above = set & ~((2u << current) - 1);
  return static_cast<unsigned>(__builtin_ctz(above != 0 ? above : set));
}

// Makes the next ready thread the current one: a warp goes as far as it can before the next one, so that threads are as
// far apart as the barriers let them be. False where no thread is ready.
bool Executor::pick(bool from_the_start) {
  if (ready_warps_ == 0) {
    return false;
  }
  const unsigned end = descending_ ? 0 : kWarp - 1;  // behind which the search goes around to the start
  unsigned warp = current_ / kWarp, lane = current_ % kWarp;
  if (from_the_start || !(ready_warps_ >> warp & 1)) {
    warp = next_in(ready_warps_, from_the_start ? end : warp, descending_);
    lane = end;
  }
  lane = next_in(warps_[warp].ready, lane, descending_);
  warps_[warp].ready &= ~(1u << lane);
  if (warps_[warp].ready == 0) {
    ready_warps_ &= ~(1u << warp);
  }
  current_ = warp * kWarp + lane;
  own_stack_ = reinterpret_cast<uintptr_t>(stacks_ + current_ * kStackStride);
  shared_.set_thread(current_);
  return true;
}

// Leaves the current thread, which is not ready or has been made so again, for the next one.
void Executor::park(bool from_the_start) {
  const unsigned self = current_;
  if (!pick(from_the_start)) {
    fail_stuck();
  }
  if (current_ != self) {
    ++counters_.switches;
    switch_context(threads_[self].context, threads_[current_].context);
  }
}

void Executor::exit_thread() {
  Warp& warp = warps_[current_ / kWarp];
  const unsigned lane = 1u << current_ % kWarp;
  if (barrier_.arrived != 0) {
    fail(FaultKind::kBarrier, nullptr, "the thread leaves the kernel while others wait at __syncthreads (%s:%d)",
         barrier_.site.file, barrier_.site.line);
  }
  for (unsigned i = 0; i < kWarp; ++i) {
    if ((warp.waiting >> i & 1) && (warp.waits[i].mask & lane)) {
      fail(FaultKind::kWarp, nullptr, "the thread leaves the kernel while lane %u waits for it (%s:%d)", i,
           warp.waits[i].site.file, warp.waits[i].site.line);
    }
  }
  warp.exited |= lane;
  ++exited_;
  const unsigned self = current_;
  if (exited_ == thread_count_) {
    switch_context(threads_[self].context, main_);
  }
  if (!pick(false)) {
    fail_stuck();
  }
  ++counters_.switches;
  switch_context(threads_[self].context, threads_[current_].context);
  __builtin_unreachable();
}

int Executor::barrier(bool predicate, Site site) {
  if (exited_ != 0) {
    fail(FaultKind::kBarrier, nullptr, "the thread waits at __syncthreads (%s:%d), but others have left the kernel",
         site.file, site.line);
  }
  if (barrier_.arrived == 0) {
    barrier_.site = site;
  } else if (barrier_.site.line != site.line || std::strcmp(barrier_.site.file, site.file) != 0) {
    fail(FaultKind::kBarrier, nullptr, "the thread waits at __syncthreads (%s:%d), others at %s:%d", site.file,
         site.line, barrier_.site.file, barrier_.site.line);
  }
  ++barrier_.arrived;
  barrier_.votes += predicate ? 1 : 0;
  if (barrier_.arrived == thread_count_) {
    barrier_.result = barrier_.votes;
    barrier_.arrived = 0;
    barrier_.votes = 0;
    ++counting().barriers;
    counting().vector_bank_conflicts += shared_.take_bank_conflicts();
    shared_.block_barrier();
    for (unsigned warp = 0; warp * kWarp < thread_count_; ++warp) {
      make_ready(warp, warps_[warp].exists);
    }
    park(true);
  } else {
    park(false);
  }
  return barrier_.result;
}

void Executor::collective(unsigned mask, Perform perform, void* payload, Site site) {
  Warp& warp = warps_[current_ / kWarp];
  const unsigned self = current_ % kWarp;
  if (!(mask >> self & 1)) {
    fail(FaultKind::kWarp, nullptr, "warp collective (%s:%d): lane %u is not in its own mask %#x", site.file, site.line,
         self, mask);
  }
  const unsigned absent = mask & ~(warp.exists & ~warp.exited);
  if (absent != 0) {
    fail(FaultKind::kWarp, nullptr, "warp collective (%s:%d): lanes %#x of its mask have left the kernel or never were",
         site.file, site.line, absent);
  }
  const Wait wait = {mask, perform, payload, site};
  warp.waits[self] = wait;
  const unsigned there = warp.waiting & mask;
  bool complete = (there | 1u << self) == mask;
  void* payloads[kWarp];
  if (complete) {
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (mask >> lane & 1) {
        complete = complete && meets(wait, lane);
        payloads[lane] = warp.waits[lane].payload;
      }
    }
  } else if (there != 0) {
    meets(wait, static_cast<unsigned>(__builtin_ctz(there)));  // for an early fault; all are asked in the end
  }
  if (!complete) {
    warp.waiting |= 1u << self;
    park(false);
    return;
  }
  perform(payloads, mask);
  warp.waiting &= ~mask;
  if (there != 0) {
    make_ready(current_ / kWarp, there);
  }
}

// Is the lane, which waits, in the same collective, wherever in the source that is? If it waits for the current one in
// another, neither can go on.
bool Executor::meets(const Wait& wait, unsigned lane) const {
  const Wait& other = warps_[current_ / kWarp].waits[lane];
  if (other.mask == wait.mask && other.perform == wait.perform) {
    return true;
  }
  if (other.mask >> current_ % kWarp & 1) {
    fail(FaultKind::kWarp, nullptr, "warp collective (%s:%d, mask %#x) meets another of lane %u (%s:%d, mask %#x)",
         wait.site.file, wait.site.line, wait.mask, lane, other.site.file, other.site.line, other.mask);
  }
  return false;
}

void Executor::fail_stuck() {
  for (unsigned i = 0; i < kMaxThreads / kWarp && i * kWarp < thread_count_; ++i) {
    if (warps_[i].waiting != 0) {
      const auto lane = static_cast<unsigned>(__builtin_ctz(warps_[i].waiting));
      const Wait& wait = warps_[i].waits[lane];
      fail(FaultKind::kWarp, nullptr, "thread %u waits in a warp collective (%s:%d) for lanes %#x, which never come",
           i * kWarp + lane, wait.site.file, wait.site.line, wait.mask & ~warps_[i].waiting);
    }
  }
  fail(FaultKind::kBarrier, nullptr, "%u of %u threads wait at __syncthreads (%s:%d), and no other can go on",
       barrier_.arrived, thread_count_, barrier_.site.file, barrier_.site.line);
}

void Executor::check_global(uintptr_t address, size_t bytes, bool write, const void* code) {
  if (address - reinterpret_cast<uintptr_t>(stacks_) < kMaxThreads * kStackStride) {
    fail(FaultKind::kLocal, code, "%s of %zu bytes of another thread's local memory", write ? "write" : "read", bytes);
  }
  global_.check(address, bytes, write, code);
}

void Executor::misaligned(uintptr_t address, size_t bytes, const void* code) const {
  const auto over = static_cast<unsigned>(address % bytes);
  fail(FaultKind::kMisaligned, code, "access of %zu bytes at an address that is %u more than a multiple of that", bytes,
       over);
}

// Records the fault and leaves the kernel's stacks for good.
void Executor::abandon(FaultKind kind, const char* what, const void* code) {
  char place[512] = "";
  Dl_info info;
  if (code != nullptr && dladdr(code, &info) != 0) {
    const auto offset = static_cast<const char*>(code) - static_cast<const char*>(info.dli_fbase) - 1;
    std::snprintf(place, sizeof(place), "; addr2line -Cfie %s %#tx", info.dli_fname, offset);
  }
  char text[2048];
  const uint3 thread = thread_index(), block = block_index_;
  std::snprintf(text, sizeof(text), "%s [thread (%u, %u, %u) of block (%u, %u, %u), %s order%s]", what, thread.x,
                thread.y, thread.z, block.x, block.y, block.z, descending_ ? "descending" : "ascending", place);
  fault_ = std::make_exception_ptr(Fault(kind, text));
  switch_context(threads_[current_].context, main_);
  __builtin_unreachable();
}

void fail(FaultKind kind, const void* code, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  if (Executor::running() == nullptr) {
    throw Fault(kind, text);
  }
  Executor::running()->abandon(kind, text, code);
}

}  // namespace host_cuda
