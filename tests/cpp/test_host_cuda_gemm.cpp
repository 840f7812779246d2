// Matrix products as a GPU's kernels compute them: tiles that cp.async brings to shared memory while the last ones are
// multiplied, swizzled rows, ldmatrix and the matrix instructions. C = A * B for A [M, K] and B [N, K], both row-major.
#include "cuda/convert.cuh"
#include "cuda/ptx.cuh"
#include "host_cuda_testing.h"

namespace segnet_ext::testing {
namespace {

enum class Bug { kNone, kWeakWait, kNoBarrier, kTransposedFragment, kNoSwizzle };

struct GemmParams {
  const void* a;
  const void* b;
  const unsigned* metadata;  // [M / 16, K / 32, 32]: of each lane
  float* c;
  int m, n, k;
};

// A block of four warps computes 32 x 32, a warp 16 x 16, in steps of 64 bytes of a row of A and B.
constexpr int kTile = 32, kStepBytes = 64, kThreads = 128;
constexpr int kTileBytes = kTile * kStepBytes, kSharedBytes = 4 * kTileBytes;

// The 16 bytes of a row lie rotated by the row, so that eight rows below each other meet all banks.
template <Bug kBug>
SEGNET_DEVICE int swizzled(int row, int vector) {
  return row * kStepBytes + (kBug == Bug::kNoSwizzle ? vector : vector ^ (row >> 1 & 3)) * 16;
}

template <class T, Bug kBug>
SEGNET_DEVICE void load_step(const GemmParams& p, unsigned char* tiles, int step) {
  const int thread = static_cast<int>(threadIdx.x), row = thread / 4, vector = thread % 4;
  const int top = static_cast<int>(blockIdx.y) * kTile, left = static_cast<int>(blockIdx.x) * kTile;
  const int64_t row_bytes = static_cast<int64_t>(p.k) * static_cast<int64_t>(sizeof(T));
  const int64_t column = static_cast<int64_t>(step) * kStepBytes + vector * 16;
  cuda::copy_async_16(tiles + swizzled<kBug>(row, vector),
                      static_cast<const unsigned char*>(p.a) + (top + row) * row_bytes + column,
                      top + row < p.m && column < row_bytes);
  cuda::copy_async_16(tiles + kTileBytes + swizzled<kBug>(row, vector),
                      static_cast<const unsigned char*>(p.b) + (left + row) * row_bytes + column,
                      left + row < p.n && column < row_bytes);
  cuda::copy_async_commit();
}

// One instruction's worth of depth: 32 bytes of the rows. Floats are loaded as pairs of 16-bit elements: ldmatrix gives
// a lane element c of row r, as the tf32 fragments have it.
template <class T>
SEGNET_DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], bool narrow) {
  if constexpr (sizeof(T) == 4) {
    cuda::mma_m16n8k8_tf32(d, a, b);
  } else if constexpr (std::is_same_v<T, half>) {
    if (narrow) {
      cuda::mma_m16n8k8(d, {a[0], a[1]}, b[0], half{});
      cuda::mma_m16n8k8(d, {a[2], a[3]}, b[1], half{});
    } else {
      cuda::mma_m16n8k16(d, a, b, half{});
    }
  } else {
    cuda::mma_m16n8k16(d, a, b, bfloat16{});
  }
}

template <class T, bool kNarrow, Bug kBug>
__global__ void __launch_bounds__(kThreads) gemm_kernel(GemmParams p) {
  SEGNET_DYNAMIC_SHARED(shared);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_row = warp / 2 * 16, warp_column = warp % 2 * 16;
  const int steps = (p.k * static_cast<int>(sizeof(T)) + kStepBytes - 1) / kStepBytes;
  float d[2][4] = {};
  load_step<T, kBug>(p, shared, 0);
  for (int step = 0; step < steps; ++step) {
    unsigned char* tiles = shared + step % 2 * 2 * kTileBytes;
    if (step + 1 < steps) {
      load_step<T, kBug>(p, shared + (step + 1) % 2 * 2 * kTileBytes, step + 1);
      cuda::copy_async_wait<1>();
    } else {
      cuda::copy_async_wait<kBug == Bug::kWeakWait ? 1 : 0>();
    }
    __syncthreads();
    for (int half_step = 0; half_step < 2; ++half_step) {
      // Matrices of A: down, then right. Of B: right, then down, a row of B being a column of the product.
      unsigned a[4], b[4];
      const unsigned char* row_a = tiles + swizzled<kBug>(warp_row + lane % 16, 2 * half_step + lane / 16);
      const unsigned char* row_b =
          tiles + kTileBytes + swizzled<kBug>(warp_column + lane % 8 + lane / 16 * 8, 2 * half_step + lane / 8 % 2);
      if constexpr (kBug == Bug::kTransposedFragment) {
        cuda::ldmatrix_x4_trans(a, row_a);
      } else {
        cuda::ldmatrix_x4(a, row_a);
      }
      cuda::ldmatrix_x4(b, row_b);
      multiply<T>(d[0], a, {b[0], b[1]}, kNarrow);
      multiply<T>(d[1], a, {b[2], b[3]}, kNarrow);
    }
    if constexpr (kBug != Bug::kNoBarrier) {
      __syncthreads();  // the tile is overwritten in the next turn
    }
  }
  const int row = static_cast<int>(blockIdx.y) * kTile + warp_row + lane / 4;
  const int column = static_cast<int>(blockIdx.x) * kTile + warp_column + lane % 4 * 2;
  for (int i = 0; i < 8; ++i) {
    const int r = row + i / 2 % 2 * 8, c = column + i / 4 * 8 + i % 2;
    if (r < p.m && c < p.n) {
      p.c[static_cast<int64_t>(r) * p.n + c] = d[i / 4][i % 4];
    }
  }
}

// A with two of every four columns, straight from global memory: [M, K / 2], in blocks of one warp for 16 x 8 of C.
template <class T>
__global__ void sparse_gemm_kernel(GemmParams p) {
  const int lane = static_cast<int>(threadIdx.x);
  const int top = static_cast<int>(blockIdx.y) * 16 + lane / 4, left = static_cast<int>(blockIdx.x) * 8;
  float d[4] = {};
  for (int k = 0; k < p.k; k += 32) {
    const auto pair_at = [&](const void* matrix, int row, int64_t width, int column) {
      return *reinterpret_cast<const unsigned*>(static_cast<const T*>(matrix) + row * width + column);
    };
    unsigned a[4], b[4];
    for (int i = 0; i < 4; ++i) {
      a[i] = pair_at(p.a, top + i % 2 * 8, p.k / 2, k / 2 + lane % 4 * 2 + i / 2 * 8);
      b[i] = pair_at(p.b, left + lane / 4, p.k, k + lane % 4 * 2 + i * 8);
    }
    const int64_t step = static_cast<int64_t>(blockIdx.y) * (p.k / 32) + k / 32;
    cuda::mma_sp_m16n8k32<0>(d, a, b, p.metadata[step * 32 + lane], T{});
  }
  for (int i = 0; i < 4; ++i) {
    p.c[static_cast<int64_t>(top + i / 2 * 8) * p.n + left + lane % 4 * 2 + i % 2] = d[i];
  }
}

template <class T>
Buffer<T> random_values(int64_t size, Random& random) {
  Buffer<T> values(size);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (int64_t i = 0; i < size; ++i) {
    values[i] = cuda::from_acc<T>(uniform(random));
    if constexpr (std::is_same_v<T, float>) {
      values[i] = cuda::round_to_tf32(values[i]);
    }
  }
  return values;
}

// The furthest that an element of C is from the product in double precision, in units of what K float additions may be.
template <class T>
double error_of(const Buffer<float>& c, const Buffer<T>& a, const Buffer<T>& b, int m, int n, int k) {
  double worst = 0;
  for (int row = 0; row < m; ++row) {
    for (int column = 0; column < n; ++column) {
      double exact = 0, size = 0;
      for (int i = 0; i < k; ++i) {
        const double product =
            Element<T>::value(a[int64_t{row} * k + i]) * Element<T>::value(b[int64_t{column} * k + i]);
        exact += product;
        size += std::abs(product);
      }
      const double error = std::abs(c[int64_t{row} * n + column] - exact) / (size * k * 0x1p-24 + 1e-30);
      worst = std::isnan(worst) || error <= worst ? worst : error;  // NaN stays
    }
  }
  return worst;
}

// An element that is no number must not hide behind those after it.
void test_error_of() {
  Random random(2);
  const auto a = random_values<float>(8, random), b = random_values<float>(16, random);
  Buffer<float> c(2);
  c[0] = NAN;
  c[1] = 0;
  CHECK(std::isnan(error_of(c, a, b, 1, 2, 8)), "NaN is lost");
}

template <class T, bool kNarrow, Bug kBug>
double gemm_error(int m, int n, int k) {
  Random random(3);
  const auto a = random_values<T>(int64_t{m} * k, random), b = random_values<T>(int64_t{n} * k, random);
  Buffer<float> c(int64_t{m} * n);
  host_cuda::Buffers buffers;
  buffers.read(a.data(), sizeof(T) * static_cast<size_t>(a.size()), "A");
  buffers.read(b.data(), sizeof(T) * static_cast<size_t>(b.size()), "B");
  buffers.write(c.data(), sizeof(float) * static_cast<size_t>(c.size()), "C");
  host_cuda::counters() = {};
  launcher()(gemm_kernel<T, kNarrow, kBug>,
             {dim3(static_cast<unsigned>(n + kTile - 1) / kTile, static_cast<unsigned>(m + kTile - 1) / kTile),
              kThreads, kSharedBytes},
             GemmParams{a.data(), b.data(), nullptr, c.data(), m, n, k});
  return error_of(c, a, b, m, n, k);
}

template <class T, bool kNarrow>
void test_gemm(const char* name) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  struct Size {
    int m, n, k;
  };
  for (const auto& [m, n, k] : {Size{32, 32, 64}, Size{64, 96, 160}, Size{37, 41, 5 * kVector}, Size{1, 1, kVector}}) {
    const double error = gemm_error<T, kNarrow, Bug::kNone>(m, n, k);
    CHECK(error <= 1, "%s, %d x %d x %d: %g times the bound", name, m, n, k, error);
    CHECK(host_cuda::counters().bank_conflicts == 0, "%s has %d bank conflicts", name,
          static_cast<int>(host_cuda::counters().bank_conflicts));
  }
  gemm_error<T, kNarrow, Bug::kNoSwizzle>(32, 32, 64);
  CHECK(host_cuda::counters().bank_conflicts > 0, "%s without a swizzle has no bank conflicts", name);
  const double transposed = gemm_error<T, kNarrow, Bug::kTransposedFragment>(32, 32, 64);
  CHECK(!(transposed <= 1000), "%s matches with a transposed fragment: %g", name, transposed);
  expect_fault("too weak a last wait", host_cuda::FaultKind::kInFlight,
               [] { gemm_error<T, kNarrow, Bug::kWeakWait>(32, 32, 160); });
  expect_fault("no barrier before a tile is overwritten", host_cuda::FaultKind::kRace,
               [] { gemm_error<T, kNarrow, Bug::kNoBarrier>(32, 32, 320); });
}

template <class T>
void test_sparse_gemm(const char* name) {
  const int m = 48, n = 24, k = 96;
  Random random(4);
  const auto b = random_values<T>(n * k, random);
  auto held = random_values<T>(m * k / 2, random);
  Buffer<T> a(m * k);
  Buffer<unsigned> metadata(m / 16 * k / 32 * 32);
  Buffer<float> c(m * n);
  std::memset(a.data(), 0, sizeof(T) * m * k);
  std::memset(metadata.data(), 0, sizeof(unsigned) * static_cast<size_t>(metadata.size()));
  for (int row = 0; row < m; ++row) {
    for (int four = 0; four < k / 4; ++four) {
      const int first = static_cast<int>(draw(random, 0, 2)), second = static_cast<int>(draw(random, first + 1, 3));
      a[row * k + 4 * four + first] = held[row * k / 2 + 2 * four];
      a[row * k + 4 * four + second] = held[row * k / 2 + 2 * four + 1];
      const int step = row / 16 * (k / 32) + four / 8, lane = row % 8 * 4 + four % 8 / 4;
      metadata[step * 32 + lane] |= static_cast<unsigned>(first | second << 2) << (row % 16 / 8 * 16 + four % 4 * 4);
    }
  }
  host_cuda::Buffers buffers;
  buffers.read(held.data(), sizeof(T) * m * k / 2, "A");
  buffers.read(b.data(), sizeof(T) * n * k, "B");
  buffers.read(metadata.data(), sizeof(unsigned) * static_cast<size_t>(metadata.size()), "metadata");
  buffers.write(c.data(), sizeof(float) * m * n, "C");
  host_cuda::counters() = {};
  launcher()(sparse_gemm_kernel<T>, {dim3(n / 8, m / 16), 32, 0},
             GemmParams{held.data(), b.data(), metadata.data(), c.data(), m, n, k});
  const double error = error_of(c, a, b, m, n, k);
  CHECK(error <= 1, "%s: %g times the bound", name, error);
  CHECK(host_cuda::counters().mma_sparse == m / 16 * n / 8 * k / 32, "instructions are counted");
}

}  // namespace
}  // namespace segnet_ext::testing

int main() {
  using namespace segnet_ext::testing;
  using segnet_ext::bfloat16;
  using segnet_ext::half;
  test_error_of();
  test_gemm<half, false>("half");
  test_gemm<half, true>("half of 7.5");
  test_gemm<bfloat16, false>("bfloat16");
  test_gemm<float, false>("tf32");
  test_sparse_gemm<half>("sparse half");
  test_sparse_gemm<bfloat16>("sparse bfloat16");
  return 0;
}
