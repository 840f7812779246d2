#include "host_cuda/builtins.h"

#include "host_cuda/executor.h"

namespace host_cuda {

uint3 thread_index() {
  return Executor::of_kernel().thread_index();
}
uint3 block_index() {
  return Executor::of_kernel().block_index();
}
dim3 block_size() {
  return Executor::of_kernel().block_size();
}
dim3 grid_size() {
  return Executor::of_kernel().grid_size();
}
unsigned char* dynamic_shared() {
  return Executor::of_kernel().shared().data();
}

void check_alignment(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    Executor::of_kernel().misaligned(reinterpret_cast<uintptr_t>(address), bytes, HOST_CUDA_CALLER);
  }
}

int barrier(bool predicate, Site site) {
  return Executor::of_kernel().barrier(predicate, site);
}

void warp_barrier(unsigned mask, Site site) {
  const auto meet = [](void* const*, unsigned lanes) {
    Executor& executor = Executor::of_kernel();
    executor.shared().warp_barrier(executor.warp(), lanes);
  };
  Executor::of_kernel().collective(mask, meet, nullptr, site);
}

namespace {

struct Ballot {
  bool predicate;
  unsigned result;
};

// A function for each kind of vote and shuffle: lanes that meet in different ones are in different collectives.
template <Vote>
void count_votes(void* const* lanes, unsigned mask) {
  unsigned result = 0;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if ((mask >> lane & 1) && static_cast<const Ballot*>(lanes[lane])->predicate) {
      result |= 1u << lane;
    }
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (mask >> lane & 1) {
      static_cast<Ballot*>(lanes[lane])->result = result;
    }
  }
}

struct Exchange {
  uint64_t value, result;
  int from;
};

template <Shuffle>
void exchange_values(void* const* lanes, unsigned mask) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (mask >> lane & 1) {
      auto* exchange = static_cast<Exchange*>(lanes[lane]);
      exchange->result = static_cast<const Exchange*>(lanes[exchange->from])->value;
    }
  }
}

}  // namespace

unsigned vote(Vote vote, unsigned mask, bool predicate, Site site) {
  constexpr Perform kCount[] = {&count_votes<Vote::kBallot>, &count_votes<Vote::kAny>, &count_votes<Vote::kAll>};
  Ballot ballot = {predicate, 0};
  Executor::of_kernel().collective(mask, kCount[static_cast<int>(vote)], &ballot, site);
  return ballot.result;
}

uint64_t shuffle(Shuffle shuffle, unsigned mask, uint64_t value, int operand, int width, Site site) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0) {
    fail(FaultKind::kWarp, nullptr, "shuffle (%s:%d) of width %d, which is no power of two up to 32", site.file,
         site.line, width);
  }
  const int lane = static_cast<int>(Executor::of_kernel().lane());
  const int first = lane & ~(width - 1), last = first + width - 1;
  int from = lane;
  switch (shuffle) {
    case Shuffle::kIndex:
      from = first | (operand & (width - 1));
      break;
    case Shuffle::kXor:
      from = (lane ^ operand) <= last ? lane ^ operand : lane;
      break;
    case Shuffle::kUp:
      from = lane - operand >= first ? lane - operand : lane;
      break;
    case Shuffle::kDown:
      from = lane + operand <= last ? lane + operand : lane;
      break;
  }
  if (from < 0 || !(mask >> from & 1)) {
    fail(FaultKind::kWarp, nullptr, "shuffle (%s:%d) reads lane %d, which is not in its mask %#x", site.file, site.line,
         from, mask);
  }
  constexpr Perform kExchange[] = {&exchange_values<Shuffle::kIndex>, &exchange_values<Shuffle::kXor>,
                                   &exchange_values<Shuffle::kUp>, &exchange_values<Shuffle::kDown>};
  Exchange exchange = {value, 0, from};
  Executor::of_kernel().collective(mask, kExchange[static_cast<int>(shuffle)], &exchange, site);
  return exchange.result;
}

}  // namespace host_cuda
