// Kernels whose threads do not wait for each other as they must, each of which the executor must find and name, and go
// on working after.
#include "cuda/ptx.cuh"
#include "host_cuda_testing.h"

namespace segnet_ext::testing {
namespace {

using host_cuda::FaultKind;

constexpr unsigned kAll = 0xffffffffu;

void test_races() {
  // Threads in ascending order find what they read already written, in descending order too.
  expect("missing barrier, write then read", FaultKind::kRace, [](int t, float* shared, const float* in, float* out) {
    shared[t] = in[t];
    out[t] = shared[t & ~1];
  });
  expect("missing barrier, read then write", FaultKind::kRace, [](int t, float* shared, const float* in, float* out) {
    shared[t] = in[t];
    __syncthreads();
    out[t] = shared[63 - t];
    shared[t] = 0;
  });
  expect("missing barrier, two writes", FaultKind::kRace,
         [](int t, float* shared, const float* in, float*) { shared[t / 2] = in[t]; });
  expect("missing barrier, two writes of one value", FaultKind::kRace,
         [](int, float* shared, const float*, float*) { shared[0] = 1; });
  expect("a barrier of the warp where the block's is needed", FaultKind::kUnwritten,
         [](int t, float* shared, const float* in, float* out) {
           shared[t] = in[t];
           __syncwarp();
           out[t] = shared[63 - t];
         });
  expect("a barrier of half a warp", FaultKind::kRace, [](int t, float* shared, const float* in, float* out) {
    shared[t] = in[t];
    __syncwarp(t % 32 < 16 ? 0xffffu : 0xffff0000u);
    out[t] = t % 32 == 16 ? shared[t - 1] : 0;
  });
  expect("a shuffle is no barrier", FaultKind::kRace, [](int t, float* shared, const float* in, float* out) {
    shared[t] = in[t];
    out[t] = __shfl_xor_sync(kAll, in[t], 1);
    out[t] += shared[t ^ 1];
  });
  expect("one byte of a word", FaultKind::kRace, [](int t, float* shared, const float*, float* out) {
    auto* bytes = reinterpret_cast<unsigned char*>(shared);
    bytes[t] = 1;
    out[t] = bytes[t & ~3];
  });
  expect_no_fault("bytes of a word by thread", [](int t, float* shared, const float*, float* out) {
    auto* bytes = reinterpret_cast<unsigned char*>(shared);
    bytes[t] = static_cast<unsigned char>(t);
    out[t] = bytes[t];
  });
  expect_no_fault("ordered by barriers of the warp", [](int t, float* shared, const float* in, float* out) {
    float value = in[t];
    for (int lanes = 1; lanes < 32; lanes *= 2) {
      shared[t] = value;
      __syncwarp();
      value += shared[t ^ lanes];
      __syncwarp();
    }
    out[t] = value;
  });
  expect_no_fault("ordered by barriers of parts of the warp", [](int t, float* shared, const float* in, float* out) {
    const unsigned mask = t % 32 < 16 ? 0xffffu : 0xffff0000u;
    for (int turn = 0; turn < 3; ++turn) {
      shared[t] = in[t];
      __syncwarp(mask);
      out[t] = shared[t ^ 15];
      __syncwarp(mask);
    }
  });
  // Lane 0 meets lane 2 through lane 1 alone.
  expect_no_fault("ordered by way of a third lane", [](int t, float* shared, const float*, float* out) {
    if (t == 0) {
      shared[0] = 1;
      __syncwarp(0b011);
    } else if (t == 1) {
      __syncwarp(0b011);
      __syncwarp(0b110);
    } else if (t == 2) {
      __syncwarp(0b110);
      out[t] = shared[0];
    }
  });
}

// A race that only one order of the blocks runs into: the block that comes first leaves its barrier out.
void test_race_in_one_order() {
  for (const unsigned culprit : {0u, 1u}) {
    Buffer<int> tickets(1);
    tickets[0] = 0;
    Arrays arrays;
    arrays.buffers->update(tickets.data(), sizeof(int), "tickets");
    int* const ticket = tickets.data();
    float* const out = arrays.out;
    expect_fault("missing barrier in one order", FaultKind::kRace, [&] {
      host_cuda::launch(2, 32, 128, [=] {
        SEGNET_DYNAMIC_SHARED(raw);
        auto* shared = reinterpret_cast<float*>(raw);
        const unsigned t = threadIdx.x;
        const bool culprit_first = blockIdx.x == culprit && *ticket == 0;
        shared[t] = 0;
        __syncthreads();
        if (t == 0) {
          *ticket += 1;
        }
        shared[t] = 1;
        if (!culprit_first) {
          __syncthreads();
        }
        out[32 * blockIdx.x + t] = shared[t & ~1u];
      });
    });
  }
}

void test_barriers() {
  expect("a barrier that half the block leaves out", FaultKind::kBarrier, [](int t, float*, const float*, float*) {
    if (t < 32) {
      __syncthreads();
    }
  });
  expect("barriers in two branches", FaultKind::kBarrier, [](int t, float*, const float*, float* out) {
    if (t % 2 == 0) {
      __syncthreads();
      out[t] = 0;
    } else {
      __syncthreads();
      out[t] = 1;
    }
  });
  expect("a thread that leaves before the barrier", FaultKind::kBarrier, [](int t, float*, const float*, float*) {
    if (t == 63) {
      return;
    }
    __syncthreads();
  });
  expect("a collective of the warp against a barrier of the block", FaultKind::kWarp,
         [](int t, float*, const float*, float*) {
           if (t % 32 == 0) {
             __syncthreads();
           } else {
             __syncwarp();
           }
         });
  expect("a lane that has left", FaultKind::kWarp, [](int t, float*, const float*, float* out) {
    if (t % 32 < 31) {
      out[t] = __shfl_down_sync(kAll, out[t], 1);
    }
  });
  expect("a lane outside of its mask", FaultKind::kWarp,
         [](int t, float*, const float*, float*) { __ballot_sync(0xffffu, t); });
  expect("a lane that is read but not in the mask", FaultKind::kWarp, [](int t, float*, const float* in, float* out) {
    if (t % 32 < 16) {
      out[t] = __shfl_xor_sync(0xffffu, in[t], 16);
    }
  });
  expect("two collectives in two branches", FaultKind::kWarp, [](int t, float*, const float*, float*) {
    if (t % 2 == 0) {
      __any_sync(kAll, 1);
    } else {
      __syncwarp();
    }
  });
  expect_fault("lanes that never were", FaultKind::kWarp,
               [] { host_cuda::launch(1, 48, 0, [] { __syncwarp(kAll); }); });
  expect("a matrix instruction by part of a warp", FaultKind::kWarp, [](int t, float*, const float*, float*) {
    if (t % 32 != 5) {
      float d[4] = {};
      const unsigned a[4] = {}, b[2] = {};
      cuda::mma_m16n8k16(d, a, b, half{});
    }
  });
}

// Two stages of 16 bytes for each of 8 threads, copied in two groups; the first one is read after `wait`.
template <class Wait>
void expect_copy(const char* what, bool fault, const Wait& wait) {
  const auto body = [&](int t, float* shared, const float* in, float* out) {
    for (int stage = 0; stage < 2 && t < 8; ++stage) {
      cuda::copy_async_16(shared + 32 * stage + 4 * t, in + 32 * stage + 4 * t, true);
      cuda::copy_async_commit();
    }
    wait();
    __syncthreads();
    out[t] = t < 32 ? shared[t ^ 4] : 0;
  };
  if (fault) {
    expect(what, FaultKind::kInFlight, body);
  } else {
    expect_no_fault(what, body);
  }
}

void test_copies() {
  expect_copy("no wait for copies", true, [] {});
  expect_copy("too weak a wait for copies", true, [] { cuda::copy_async_wait<2>(); });
  expect_copy("a wait for all but one group", false, [] { cuda::copy_async_wait<1>(); });
  expect_copy("a wait for all groups", false, [] { cuda::copy_async_wait<0>(); });
  expect("a copy in no group", FaultKind::kInFlight, [](int t, float* shared, const float* in, float* out) {
    cuda::copy_async_16(shared + 4 * (t % 16), in, t < 16);
    cuda::copy_async_wait<0>();
    out[t] = shared[4 * t % 64];
  });
  expect("a wait without a barrier", FaultKind::kRace, [](int t, float* shared, const float* in, float* out) {
    if (t < 16) {
      cuda::copy_async_16(shared + 4 * t, in + 4 * t, true);
    }
    cuda::copy_async_commit();
    cuda::copy_async_wait<0>();
    out[t] = t < 16 ? shared[t] : 0;
  });
  expect("a write to bytes that are being copied", FaultKind::kInFlight,
         [](int t, float* shared, const float* in, float*) {
           if (t == 0) {
             cuda::copy_async_16(shared, in, true);
           }
           __syncthreads();
           shared[t] = 0;
         });
  expect("a copy over bytes that others read", FaultKind::kRace, [](int t, float* shared, const float* in, float* out) {
    shared[t] = in[t];
    __syncthreads();
    out[t] = shared[63 - t];
    if (t == 63) {
      cuda::copy_async_16(shared, in, true);
    }
  });
  expect("a copy from behind a buffer", FaultKind::kGlobalBounds, [](int t, float* shared, const float* in, float*) {
    if (t < 16) {
      cuda::copy_async_16(shared + 4 * t, in + 4 * t + 4, true);
    }
  });
  expect("a copy to global memory", FaultKind::kSharedBounds,
         [](int t, float*, const float* in, float* out) { cuda::copy_async_16(out + t / 4 * 4, in, true); });
  expect_no_fault("a copy of zeros reads nothing", [](int t, float* shared, const float*, float* out) {
    if (t < 16) {
      cuda::copy_async_16(shared + 4 * t, nullptr, false);
    }
    cuda::copy_async_commit();
    cuda::copy_async_wait<0>();
    __syncthreads();
    out[t] = shared[t];
  });
}

}  // namespace
}  // namespace segnet_ext::testing

int main() {
  using namespace segnet_ext::testing;
  test_races();
  test_race_in_one_order();
  test_barriers();
  test_copies();
  return 0;
}
