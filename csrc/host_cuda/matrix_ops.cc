#include "host_cuda/matrix_ops.h"

#include <algorithm>
#include <cstring>

#include "host_cuda/executor.h"

namespace host_cuda {
namespace {

constexpr int kRows = 16, kColumns = 8;

struct Operands {
  float* d;
  const unsigned* a;
  const unsigned* b;
  unsigned metadata;
};

const Operands& of_lane(void* const* lanes, int lane) {
  return *static_cast<const Operands*>(lanes[lane]);
}

float decode(Format format, unsigned bits) {
  return format == Format::kHalf ? float_from_half(static_cast<uint16_t>(bits))
                                 : float_from_bfloat16(static_cast<uint16_t>(bits));
}

// d += a * b, products summed in the order of k.
template <int kDepth>
void multiply(void* const* lanes, const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns]) {
  float d[kRows][kColumns];
  const auto for_each_element = [&](const auto& body) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        body(d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2], of_lane(lanes, lane).d[i]);
      }
    }
  };
  for_each_element([](float& element, const float& fragment) { element = fragment; });
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column) {
        d[row][column] += a[row][k] * b[k][column];
      }
    }
  }
  for_each_element([](const float& element, float& fragment) { fragment = element; });
}

// The 16-bit fragments are made of 8 x 8 matrices, a register of each lane for every matrix: lane 4r+c has columns 2c
// and 2c+1 of row r. The matrices of A go down first, then right. B is held by its columns: a row of its matrices is a
// column of B.
template <int kDepth>
void unpack_a(void* const* lanes, Format format, float (&a)[kRows][kDepth]) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < kDepth / 4; ++matrix) {
      const unsigned pair = of_lane(lanes, lane).a[matrix];
      float* to = &a[lane / 4 + 8 * (matrix % 2)][2 * (lane % 4) + 8 * (matrix / 2)];
      to[0] = decode(format, pair & 0xffff);
      to[1] = decode(format, pair >> 16);
    }
  }
}
template <int kDepth>
void unpack_b(void* const* lanes, Format format, float (&b)[kDepth][kColumns]) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < kDepth / 8; ++matrix) {
      const unsigned pair = of_lane(lanes, lane).b[matrix];
      const int k = 2 * (lane % 4) + 8 * matrix;
      b[k][lane / 4] = decode(format, pair & 0xffff);
      b[k + 1][lane / 4] = decode(format, pair >> 16);
    }
  }
}

template <Format kFormat, int kDepth>
void multiply_dense(void* const* lanes, unsigned) {
  float a[kRows][kDepth], b[kDepth][kColumns];
  unpack_a(lanes, kFormat, a);
  unpack_b(lanes, kFormat, b);
  multiply(lanes, a, b);
  ++Executor::of_kernel().counting().mma;
}

// A register holds one element: lane 4r+c has row r, column c of each matrix of 8 x 4.
void multiply_tf32(void* const* lanes, unsigned) {
  float a[kRows][8], b[8][kColumns];
  for (int lane = 0; lane < 32; ++lane) {
    const Operands& operands = of_lane(lanes, lane);
    for (int i = 0; i < 4; ++i) {
      a[lane / 4 + 8 * (i % 2)][lane % 4 + 4 * (i / 2)] = cut_to_tf32(float_from_bits(operands.a[i]));
    }
    for (int i = 0; i < 2; ++i) {
      b[lane % 4 + 4 * i][lane / 4] = cut_to_tf32(float_from_bits(operands.b[i]));
    }
  }
  multiply(lanes, a, b);
  ++Executor::of_kernel().counting().mma;
}

// The fragments of A hold 16 x 16 elements, two of every four columns of the 16 x 32 matrix. Two lanes of each four
// have the positions: in order of the columns a 4-bit pair of positions for each four columns, 16 columns to a lane,
// those of row r in the low half of lanes 4r and up, those of row r+8 in the high half.
template <Format kFormat, int kSelector>
void multiply_sparse(void* const* lanes, unsigned) {
  float held[kRows][16], a[kRows][32] = {}, b[32][kColumns];
  unpack_a(lanes, kFormat, held);
  unpack_b(lanes, kFormat, b);
  for (int row = 0; row < kRows; ++row) {
    for (int four = 0; four < 8; ++four) {
      const int lane = 4 * (row % 8) + 2 * kSelector + four / 4;
      const unsigned pair = of_lane(lanes, lane).metadata >> (16 * (row / 8) + 4 * (four % 4)) & 15;
      const unsigned first = pair & 3, second = pair >> 2;
      if (first >= second) {
        fail(FaultKind::kMetadata, nullptr, "sparsity metadata of row %d, columns %d to %d: positions %u and %u", row,
             4 * four, 4 * four + 3, first, second);
      }
      a[row][4 * four + static_cast<int>(first)] = held[row][2 * four];
      a[row][4 * four + static_cast<int>(second)] = held[row][2 * four + 1];
    }
  }
  multiply(lanes, a, b);
  ++Executor::of_kernel().counting().mma_sparse;
}

constexpr unsigned kWholeWarp = 0xffffffff;

void require(int arch, const char* instruction) {
  if (device().arch < arch) {
    fail(FaultKind::kLaunch, nullptr, "%s needs compute capability %d.%d, the device has %d.%d", instruction, arch / 10,
         arch % 10, device().arch / 10, device().arch % 10);
  }
}

struct MatrixLoad {
  const unsigned char* row;
  unsigned* registers;
};

template <int kCount, bool kTransposed>
void load_matrices(void* const* lanes, unsigned) {
  const auto row = [&](int matrix, int r) { return static_cast<const MatrixLoad*>(lanes[8 * matrix + r])->row; };
  Counters& counters = Executor::of_kernel().counting();
  ++counters.ldmatrix;
  for (int matrix = 0; matrix < kCount; ++matrix) {
    uint16_t elements[8][8];
    int rows_in_banks[8] = {};
    for (int r = 0; r < 8; ++r) {
      std::memcpy(elements[r], row(matrix, r), sizeof(elements[r]));
      // A row takes four of the 32 banks. The same row again comes along for nothing.
      bool again = false;
      for (int earlier = 0; earlier < r; ++earlier) {
        again = again || row(matrix, earlier) == row(matrix, r);
      }
      rows_in_banks[reinterpret_cast<uintptr_t>(row(matrix, r)) / 16 % 8] += again ? 0 : 1;
    }
    counters.bank_conflicts += *std::max_element(rows_in_banks, rows_in_banks + 8) - 1;
    for (int lane = 0; lane < 32; ++lane) {
      const int i = lane / 4, j = 2 * (lane % 4);
      const unsigned low = kTransposed ? elements[j][i] : elements[i][j];
      const unsigned high = kTransposed ? elements[j + 1][i] : elements[i][j + 1];
      static_cast<const MatrixLoad*>(lanes[lane])->registers[matrix] = high << 16 | low;
    }
  }
}

}  // namespace

void mma_m16n8k16(Format format, float* d, const unsigned* a, const unsigned* b) {
  require(80, "mma.m16n8k16");
  Operands operands = {d, a, b, 0};
  const Perform perform =
      format == Format::kHalf ? &multiply_dense<Format::kHalf, 16> : &multiply_dense<Format::kBFloat16, 16>;
  Executor::of_kernel().collective(kWholeWarp, perform, &operands, {"mma.m16n8k16", 0});
}

void mma_m16n8k8(float* d, const unsigned* a, const unsigned* b) {
  Operands operands = {d, a, b, 0};
  Executor::of_kernel().collective(kWholeWarp, &multiply_dense<Format::kHalf, 8>, &operands, {"mma.m16n8k8", 0});
}

void mma_m16n8k8_tf32(float* d, const unsigned* a, const unsigned* b) {
  require(80, "mma.m16n8k8.tf32");
  Operands operands = {d, a, b, 0};
  Executor::of_kernel().collective(kWholeWarp, &multiply_tf32, &operands, {"mma.m16n8k8.tf32", 0});
}

void mma_sp_m16n8k32(Format format, float* d, const unsigned* a, const unsigned* b, unsigned metadata, int selector) {
  require(80, "mma.sp.m16n8k32");
  Operands operands = {d, a, b, metadata};
  const Perform half = selector == 0 ? &multiply_sparse<Format::kHalf, 0> : &multiply_sparse<Format::kHalf, 1>;
  const Perform bf16 = selector == 0 ? &multiply_sparse<Format::kBFloat16, 0> : &multiply_sparse<Format::kBFloat16, 1>;
  Executor::of_kernel().collective(kWholeWarp, format == Format::kHalf ? half : bf16, &operands,
                                   {"mma.sp.m16n8k32", 0});
}

void ldmatrix(unsigned* registers, int count, const void* row, bool transposed) {
  Executor& executor = Executor::of_kernel();
  const auto address = reinterpret_cast<uintptr_t>(row);
  if (executor.lane() < 8u * static_cast<unsigned>(count)) {
    if (address % 16 != 0) {
      executor.misaligned(address, 16, HOST_CUDA_CALLER);
    }
    executor.shared().read(address, 16, HOST_CUDA_CALLER);
  }
  MatrixLoad load = {static_cast<const unsigned char*>(row), registers};
  const Perform straight = count == 1   ? &load_matrices<1, false>
                           : count == 2 ? &load_matrices<2, false>
                                        : &load_matrices<4, false>;
  const Perform turned = count == 1   ? &load_matrices<1, true>
                         : count == 2 ? &load_matrices<2, true>
                                      : &load_matrices<4, true>;
  executor.collective(kWholeWarp, transposed ? turned : straight, &load, {"ldmatrix", 0});
}

void copy_async_16(void* shared, const void* global, bool valid) {
  Executor& executor = Executor::of_kernel();
  const auto to = reinterpret_cast<uintptr_t>(shared), from = reinterpret_cast<uintptr_t>(global);
  if (to % 16 != 0) {
    executor.misaligned(to, 16, HOST_CUDA_CALLER);
  }
  if (valid && from % 16 != 0) {
    executor.misaligned(from, 16, HOST_CUDA_CALLER);
  }
  if (valid) {
    executor.check_global(from, 16, false, HOST_CUDA_CALLER);
  }
  executor.shared().copy_async(shared, valid ? global : nullptr, HOST_CUDA_CALLER);
  executor.note_vector(to, HOST_CUDA_CALLER);
  ++executor.counting().async_copies;
}

void copy_async_commit() {
  Executor::of_kernel().shared().commit_copies();
}

void copy_async_wait(int pending) {
  Executor::of_kernel().shared().wait_for_copies(pending);
}

}  // namespace host_cuda
