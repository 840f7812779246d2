// The executor runs correct kernels as a GPU would, and rounds as one.
#include "cuda/convert.cuh"
#include "cuda/vector.cuh"
#include "host_cuda_testing.h"

namespace segnet_ext::testing {
namespace {

constexpr unsigned kAll = 0xffffffffu;

// The sum of each block's part: by shuffles in the warp, through shared memory between warps.
struct SumParams {
  const float* input;
  float* output;
  int size;  // of a block's part
};
__global__ void sum_kernel(SumParams p) {
  SEGNET_DYNAMIC_SHARED(shared);
  auto* partial = reinterpret_cast<float*>(shared);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, warps = static_cast<int>(blockDim.x) / 32;
  const float* input = p.input + static_cast<int64_t>(blockIdx.x) * p.size;
  float sum = 0;
  for (int i = thread; i < p.size; i += static_cast<int>(blockDim.x)) {
    sum += input[i];
  }
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    sum += __shfl_xor_sync(kAll, sum, lanes);
  }
  if (thread % 32 == 0) {
    partial[warp] = sum;
  }
  __syncthreads();
  if (warp == 0) {
    sum = thread < warps ? partial[thread] : 0;
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      sum += __shfl_down_sync(kAll, sum, static_cast<unsigned>(lanes));
    }
    if (thread == 0) {
      p.output[blockIdx.x] = sum;
    }
  }
}

void test_sum() {
  Random random(1);
  const int blocks = 5, size = 1000;
  const auto input = integers<float>(blocks * size, random, -8, 8);
  Buffer<float> output(blocks);
  host_cuda::Buffers buffers;
  buffers.read(input.data(), sizeof(float) * blocks * size, "input");
  buffers.write(output.data(), sizeof(float) * blocks, "output");
  host_cuda::counters() = {};
  launcher()(sum_kernel, {blocks, 256, 8 * sizeof(float)}, SumParams{input.data(), output.data(), size});
  for (int block = 0; block < blocks; ++block) {
    float sum = 0;
    for (int i = 0; i < size; ++i) {
      sum += input[block * size + i];
    }
    CHECK(output[block] == sum, "block %d: %g, not %g", block, output[block], sum);
  }
  const auto& counters = host_cuda::counters();
  CHECK(counters.launches == 1 && counters.blocks == blocks && counters.threads == blocks * 256, "counters");
  CHECK(counters.barriers == blocks && counters.switches > 0, "counters of barriers and switches");
}

// Tiles of 32 x 32 through shared memory by 8 rows of threads, in a grid with an edge; each warp also through its own
// part of shared memory, where __syncwarp is enough.
struct TransposeParams {
  const double* input;
  double* output;
  int rows, columns;
  bool by_warp;
};
__global__ void transpose_kernel(TransposeParams p) {
  SEGNET_DYNAMIC_SHARED(shared);
  auto* tile = reinterpret_cast<double*>(shared);
  const int x = static_cast<int>(threadIdx.x), y0 = static_cast<int>(threadIdx.y);
  const int top = static_cast<int>(blockIdx.y) * 32, left = static_cast<int>(blockIdx.x) * 32;
  if (p.by_warp) {
    for (int y = y0; y < 32 && top + y < p.rows; y += 8) {
      double* row = tile + y0 * 32;
      __syncwarp();  // the row of the last turn has been read
      row[x] = left + x < p.columns ? p.input[(top + y) * p.columns + left + x] : 0;
      __syncwarp();
      if (left + 31 - x < p.columns) {
        p.output[(left + 31 - x) * p.rows + top + y] = row[31 - x];
      }
    }
    return;
  }
  for (int y = y0; y < 32; y += 8) {
    if (top + y < p.rows && left + x < p.columns) {
      tile[y * 33 + x] = p.input[(top + y) * p.columns + left + x];
    }
  }
  __syncthreads();
  for (int y = y0; y < 32; y += 8) {
    if (left + y < p.columns && top + x < p.rows) {
      p.output[(left + y) * p.rows + top + x] = tile[x * 33 + y];
    }
  }
}

void test_transpose() {
  const int rows = 45, columns = 70;
  Buffer<double> input(rows * columns), output(rows * columns);
  for (int i = 0; i < rows * columns; ++i) {
    input[i] = i;
  }
  for (const bool by_warp : {false, true}) {
    host_cuda::Buffers buffers;
    buffers.read(input.data(), sizeof(double) * rows * columns, "input");
    buffers.write(output.data(), sizeof(double) * rows * columns, "output");
    launcher()(transpose_kernel, {dim3(3, 2), dim3(32, 8), 32 * 33 * sizeof(double)},
               TransposeParams{input.data(), output.data(), rows, columns, by_warp});
    for (int i = 0; i < rows * columns; ++i) {
      CHECK(output[i % columns * rows + i / columns] == i, "element %d", i);
    }
  }
}

// Every collective against its definition, for widths and masks; one block of a warp and a half.
struct CollectivesParams {
  int* output;  // [48, kCollectives]
};
constexpr int kCollectives = 12;
__global__ void collectives_kernel(CollectivesParams p) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  int* output = p.output + thread * kCollectives;
  const unsigned mask = thread < 32 ? kAll : 0xffffu;
  output[0] = __shfl_sync(mask, thread, 3, 8);
  output[1] = __shfl_xor_sync(mask, thread, 5, 16);
  output[2] = __shfl_up_sync(mask, thread, 3, 16);
  output[3] = __shfl_down_sync(mask, thread, 3, 8);
  output[4] = static_cast<int>(__ballot_sync(mask, thread % 3 == 0));
  output[5] = __any_sync(mask, thread == 40);
  output[6] = __all_sync(mask, thread < 40);
  output[7] = __syncthreads_count(thread % 3 == 0);
  output[8] = __syncthreads_or(thread == 47);
  output[9] = __syncthreads_and(thread < 47);
  output[10] = static_cast<int>(__shfl_sync(mask, 0.25 * thread, 0) * 4);
  // Halves of a warp that go different ways.
  if (lane < 8) {
    output[11] = __shfl_xor_sync(0xffu, lane, 1);
  } else {
    output[11] = __shfl_sync(mask & ~0xffu, lane, 9);
  }
}

void test_collectives() {
  Buffer<int> output(48 * kCollectives);
  host_cuda::Buffers buffers;
  buffers.write(output.data(), sizeof(int) * 48 * kCollectives, "output");
  launcher()(collectives_kernel, {1, 48, 0}, CollectivesParams{output.data()});
  for (int thread = 0; thread < 48; ++thread) {
    const int lane = thread % 32, base = thread - lane;
    int ballot = 0;
    for (int other = 0; other < (base == 0 ? 32 : 16); ++other) {
      ballot |= (base + other) % 3 == 0 ? 1 << other : 0;
    }
    const int expected[kCollectives] = {base + lane / 8 * 8 + 3,
                                        thread ^ 5,
                                        lane % 16 >= 3 ? thread - 3 : thread,
                                        lane % 8 < 5 ? thread + 3 : thread,
                                        ballot,
                                        base == 32,
                                        base == 0,
                                        16,
                                        1,
                                        0,
                                        base,
                                        lane < 8 ? lane ^ 1 : 9};
    for (int i = 0; i < kCollectives; ++i) {
      CHECK(output[thread * kCollectives + i] == expected[i], "collective %d of thread %d: %d, not %d", i, thread,
            output[thread * kCollectives + i], expected[i]);
    }
  }
}

// A workspace is written by one launch and read by the next; a running value is updated in place.
void test_buffers() {
  Buffer<int> workspace(64), output(64), running(1);
  host_cuda::Buffers buffers;
  running[0] = 41;
  buffers.update(running.data(), sizeof(int), "running");
  buffers.write(workspace.data(), sizeof(int) * 64, "workspace");
  int* const w = workspace.data();
  int* const o = output.data();
  int* const r = running.data();
  host_cuda::launch(2, 32, 0, [=] { w[blockIdx.x * 32 + threadIdx.x] = static_cast<int>(threadIdx.x); });
  buffers.read(workspace.data(), sizeof(int) * 64, "workspace");
  buffers.write(output.data(), sizeof(int) * 64, "output");
  CHECK(output[0] == -1, "a buffer for writing is filled with ones");
  host_cuda::launch(2, 32, 0, [=] {
    const unsigned i = blockIdx.x * 32 + threadIdx.x;
    o[i] = w[63 - i];
    if (i == 0) {
      *r += 1;
    }
  });
  for (int i = 0; i < 64; ++i) {
    CHECK(output[i] == (63 - i) % 32, "element %d", i);
  }
  CHECK(running[0] == 42, "an update is made once, not %d times", running[0] - 41);
}

void test_indices() {
  const dim3 grid(3, 2, 2), block(5, 3, 2);
  Buffer<int> output(12 * 30);
  host_cuda::Buffers buffers;
  buffers.write(output.data(), sizeof(int) * 12 * 30, "output");
  int* const o = output.data();
  host_cuda::launch(grid, block, 0, [=] {
    const unsigned b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    o[b * 30 + t] = static_cast<int>(1000 * b + t);
  });
  for (int i = 0; i < 12 * 30; ++i) {
    CHECK(output[i] == i / 30 * 1000 + i % 30, "index %d", i);
  }
}

// The half formats: every value there and back, and the floats around each midpoint between neighbours.
void test_formats() {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    const float h = host_cuda::float_from_half(b), expected = static_cast<float>(Element<half>::value({b}));
    CHECK(std::memcmp(&h, &expected, sizeof(h)) == 0 || (std::isnan(h) && std::isnan(expected)), "half %#x", bits);
    CHECK(std::isnan(h) ? host_cuda::half_from_float(h) == 0x7fff : host_cuda::half_from_float(h) == b, "half %#x",
          bits);
    const float f = host_cuda::float_from_bfloat16(b);
    CHECK(std::isnan(f) ? host_cuda::bfloat16_from_float(f) == 0x7fff : host_cuda::bfloat16_from_float(f) == b,
          "bfloat16 %#x", bits);
  }
  for (int bits = 0; bits < 0x7c00; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    // Behind the largest half lies what would be the next one.
    const double low = Element<half>::value({b});
    const double high = bits == 0x7bff ? 65536 : Element<half>::value({static_cast<uint16_t>(bits + 1)});
    const auto middle = static_cast<float>((low + high) / 2);
    const int even = bits % 2 == 0 ? bits : bits + 1;
    CHECK(host_cuda::half_from_float(middle) == even, "the middle above half %#x", bits);
    CHECK(host_cuda::half_from_float(std::nextafterf(middle, 0)) == bits, "below the middle above half %#x", bits);
    CHECK(host_cuda::half_from_float(std::nextafterf(middle, 1e9f)) == bits + 1, "above the middle, half %#x", bits);
    CHECK(host_cuda::half_from_float(-middle) == (even | 0x8000), "the middle below half %#x", bits | 0x8000);
  }
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const auto at = [](uint32_t x) { return host_cuda::bfloat16_from_float(host_cuda::float_from_bits(x)); };
    CHECK(at(bits << 16 | 0x8000) == (bits + 1) / 2 * 2, "the middle above bfloat16 %#x", bits);
    CHECK(at(bits << 16 | 0x7fff) == bits && at(bits << 16 | 0x8001) == bits + 1, "around bfloat16 %#x", bits);
  }
  CHECK(cuda::round_to_tf32(1 + 0x1p-11f) == 1 + 0x1p-10f, "a tie goes away from zero");
  CHECK(cuda::round_to_tf32(-1 - 0x1p-11f) == -1 - 0x1p-10f, "a tie goes away from zero");
  CHECK(cuda::round_to_tf32(1 + 0x1p-11f - 0x1p-23f) == 1, "less than a tie");
  CHECK(cuda::round_to_tf32(INFINITY) == INFINITY && std::isnan(cuda::round_to_tf32(NAN)), "no number");
  CHECK(host_cuda::cut_to_tf32(1 + 0x1p-10f + 0x1p-11f) == 1 + 0x1p-10f, "the low bits are ignored");
}

struct CopyParams {
  const half* input;
  half* output;
};
__global__ void copy_kernel(CopyParams p) {
  const unsigned i = 24 * (blockIdx.x * blockDim.x + threadIdx.x);
  auto values = cuda::load_vector<24>(p.input + i);  // three accesses
  for (int j = 0; j < 24; ++j) {
    values[j] = cuda::from_acc<half>(2 * cuda::to_acc(values[j]));
  }
  cuda::store_vector(p.output + i, values);
}

void test_vectors() {
  Random random(2);
  const auto input = integers<half>(24 * 64, random, -100, 100);
  Buffer<half> output(24 * 64);
  host_cuda::Buffers buffers;
  buffers.read(input.data(), 24 * 64 * sizeof(half), "input");
  buffers.write(output.data(), 24 * 64 * sizeof(half), "output");
  launcher()(copy_kernel, {2, 32, 0}, CopyParams{input.data(), output.data()});
  for (int i = 0; i < 24 * 64; ++i) {
    CHECK(Element<half>::value(output[i]) == 2 * Element<half>::value(input[i]), "element %d", i);
  }
}

}  // namespace
}  // namespace segnet_ext::testing

int main() {
  using namespace segnet_ext::testing;
  test_formats();
  test_indices();
  test_sum();
  test_transpose();
  test_collectives();
  test_buffers();
  test_vectors();
  return 0;
}
