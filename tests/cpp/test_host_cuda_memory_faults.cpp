// Kernels that touch what they must not, or leave what depends on chance, each of which the executor must find and
// name.
#include "cuda/ptx.cuh"
#include "cuda/vector.cuh"
#include "host_cuda_testing.h"

namespace segnet_ext::testing {
namespace {

using host_cuda::FaultKind;

void test_bounds() {
  expect("a read behind a buffer", FaultKind::kGlobalBounds,
         [](int t, float*, const float* in, float* out) { out[t] = in[t + 1]; });
  expect("a read before a buffer", FaultKind::kGlobalBounds,
         [](int t, float*, const float* in, float* out) { out[t] = in[t - 1]; });
  expect("a write behind a buffer", FaultKind::kGlobalBounds,
         [](int t, float*, const float*, float* out) { out[4 * t] = 0; });
  expect("a write through a null pointer", FaultKind::kGlobalBounds,
         [](int t, float*, const float* in, float* out) { (in[t] >= 0 ? nullptr : out)[t] = 0; });
  expect("a write to a buffer for reading", FaultKind::kReadOnly,
         [](int t, float*, const float* in, float*) { const_cast<float*>(in)[t] = 0; });
  static int of_the_program = 0;
  expect("a write to a static variable", FaultKind::kReadOnly,
         [](int t, float*, const float*, float*) { of_the_program += t; });
  static const int kTable[] = {1, 2, 3, 4};
  expect_no_fault("a read of a constant table",
                  [](int t, float*, const float*, float* out) { out[t] = static_cast<float>(kTable[t % 4]); });
  auto heap = std::make_unique<float[]>(64);
  float* const undeclared = heap.get();
  expect("a read of memory that is not declared", FaultKind::kGlobalBounds,
         [=](int t, float*, const float*, float* out) { out[t] = undeclared[t]; });
  expect("shared memory above its end", FaultKind::kSharedBounds,
         [](int t, float* shared, const float*, float*) { shared[t + 1] = 0; });
  expect("shared memory below its start", FaultKind::kSharedBounds,
         [](int t, float* shared, const float*, float*) { shared[t - 1] = 0; });
  expect("a variable of another thread", FaultKind::kLocal, [](int t, float* shared, const float*, float*) {
    int mine = t;
    int* volatile pointer = &mine;
    auto* pointers = reinterpret_cast<int**>(shared);
    if (t == 0) {
      pointers[0] = pointer;
    }
    __syncthreads();
    *pointers[0] = 1;
  });
  Arrays arrays;
  const float* const in = arrays.in;
  float* const out = arrays.out;
  const Buffer<float> odd(62);
  const float* const end = odd.data() + 60;
  arrays.buffers->read(odd.data(), 62 * sizeof(float), "odd");
  expect_fault("a vector across a buffer's end", FaultKind::kGlobalBounds,
               [&] { host_cuda::launch(1, 1, 0, [=] { cuda::store_vector(out, cuda::load_vector<4>(end)); }); });
  // A buffer that was declared anew, and one that is gone.
  arrays.buffers->read(out, 64 * sizeof(float), "output");
  expect_fault("a write to a buffer declared for reading since", FaultKind::kReadOnly,
               [&] { host_cuda::launch(1, 64, 0, [=] { out[threadIdx.x] = in[threadIdx.x]; }); });
  arrays.buffers.reset();
  expect_fault("a read of a buffer that is gone", FaultKind::kGlobalBounds,
               [&] { host_cuda::launch(1, 64, 0, [=] { out[threadIdx.x] = in[threadIdx.x]; }); });
}

void test_alignment() {
  expect("a misaligned vector", FaultKind::kMisaligned,
         [](int t, float*, const float* in, float* out) { out[t] = cuda::load_vector<4>(in + t)[0]; });
  expect("a misaligned cast", FaultKind::kMisaligned, [](int t, float*, const float* in, float* out) {
    out[t] = t < 62 ? static_cast<float>(reinterpret_cast<const double*>(in + 1)[t / 2]) : 0;
  });
  expect("a misaligned store to shared memory", FaultKind::kMisaligned, [](int t, float* shared, const float*, float*) {
    if (t == 0) {
      cuda::store_vector(shared + 2, cuda::Vector<float, 4>{});
    }
  });
  expect("a misaligned row of ldmatrix", FaultKind::kMisaligned, [](int t, float* shared, const float* in, float*) {
    shared[t] = in[t];
    __syncthreads();
    unsigned r[4];
    cuda::ldmatrix_x4(r, shared + (t % 32 == 9 ? 2 : 0));
  });
  expect("a misaligned copy", FaultKind::kMisaligned, [](int t, float* shared, const float* in, float*) {
    if (t < 4) {
      cuda::copy_async_16(shared + 4 * t, in + 4 * t + (t == 3 ? 1 : 0), true);
    }
  });
}

void test_unwritten() {
  expect("shared memory that nothing wrote", FaultKind::kUnwritten,
         [](int t, float* shared, const float* in, float* out) {
           if (t != 7) {
             shared[t] = in[t];
           }
           __syncthreads();
           out[t] = shared[63 - t];
         });
  expect("a row of ldmatrix that nothing wrote", FaultKind::kUnwritten,
         [](int t, float* shared, const float* in, float*) {
           if (t < 60) {
             shared[t] = in[t];
           }
           __syncthreads();
           unsigned r[4];
           cuda::ldmatrix_x4(r, shared + t % 16 * 4);
         });
  // Also where the block before has written it.
  Arrays arrays;
  float* const out = arrays.out;
  expect_fault("shared memory of the block before", FaultKind::kUnwritten, [&] {
    host_cuda::launch(2, 32, 128, [=] {
      SEGNET_DYNAMIC_SHARED(raw);
      auto* shared = reinterpret_cast<float*>(raw);
      if (blockIdx.x == 0) {
        shared[threadIdx.x] = 1;
      }
      out[threadIdx.x] = shared[threadIdx.x];
    });
  });
  // A local variable holds a pattern that no result comes near; through a pointer, or the compiler warns of it.
  const auto fill = [](float* values, int count) {
    for (int i = 1; i < count; ++i) {
      values[i] = 0;
    }
  };
  host_cuda::launch(1, 32, 0, [&] {
    float values[4];
    fill(values, 4);
    float sum = 0;
    for (const float value : values) {
      sum += value;
    }
    out[threadIdx.x] = sum;
  });
  CHECK(!(std::abs(arrays.output[0]) < 1e30f), "an unset local variable reads as %g", arrays.output[0]);
}

void test_schedule() {
  Arrays arrays;
  float* const out = arrays.out;
  expect_fault("a result that depends on the order of blocks", FaultKind::kSchedule,
               [&] { host_cuda::launch(2, 1, 0, [=] { out[0] = static_cast<float>(blockIdx.x); }); });
  expect_fault("a result that depends on the order of lanes", FaultKind::kSchedule,
               [&] { host_cuda::launch(1, 32, 0, [=] { out[0] = static_cast<float>(threadIdx.x); }); });
  Buffer<float> sum(1);
  sum[0] = 0;
  arrays.buffers->update(sum.data(), sizeof(float), "sum");
  float* const total = sum.data();
  expect_fault("a sum whose order the blocks decide", FaultKind::kSchedule, [&] {
    host_cuda::launch(3, 1, 0, [=] { *total += blockIdx.x == 0 ? 1e8f : blockIdx.x == 1 ? -1e8f : 1.f; });
  });
}

void test_launches() {
  Arrays arrays;
  const auto nothing = [] {};
  expect_fault("too much shared memory", FaultKind::kLaunch, [&] { host_cuda::launch(1, 1, 200 << 10, nothing); });
  expect_fault("a block too large", FaultKind::kLaunch, [&] { host_cuda::launch(1, dim3(64, 17), 0, nothing); });
  expect_fault("an empty block", FaultKind::kLaunch, [&] { host_cuda::launch(1, 0, 0, nothing); });
  expect_fault("an empty grid", FaultKind::kLaunch, [&] { host_cuda::launch(0, 1, 0, nothing); });
  expect_fault("a grid too high", FaultKind::kLaunch, [&] { host_cuda::launch(dim3(1, 70000), 1, 0, nothing); });
  expect("an exception", FaultKind::kException,
         [](int, float*, const float*, float*) { throw std::runtime_error("of the kernel"); });
  expect("metadata that does not ascend", FaultKind::kMetadata, [](int, float*, const float*, float*) {
    float d[4] = {};
    const unsigned a[4] = {}, b[4] = {};
    cuda::mma_sp_m16n8k32<0>(d, a, b, 0x44444144, half{});
  });
  host_cuda::Device& device = host_cuda::device();
  const host_cuda::Device before = device;
  device = {75, 64 << 10};
  expect("an instruction that the device lacks", FaultKind::kLaunch, [](int, float*, const float*, float*) {
    float d[4] = {};
    const unsigned a[4] = {}, b[2] = {};
    cuda::mma_m16n8k16(d, a, b, bfloat16{});
  });
  expect_fault("too much shared memory for 7.5", FaultKind::kLaunch,
               [&] { host_cuda::launch(1, 1, 100 << 10, nothing); });
  device = before;
}

}  // namespace
}  // namespace segnet_ext::testing

int main() {
  using namespace segnet_ext::testing;
  test_bounds();
  test_alignment();
  test_unwritten();
  test_schedule();
  test_launches();
  return 0;
}
