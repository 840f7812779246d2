// The warp's matrix instructions and asynchronous copies: the host bodies of cuda/ptx.cuh.
#pragma once

namespace host_cuda {

enum class Format { kHalf, kBFloat16 };

// d += a * b of the whole warp. Registers in the order of the PTX ISA's fragments.
void mma_m16n8k16(Format format, float* d, const unsigned* a, const unsigned* b);
void mma_m16n8k8(float* d, const unsigned* a, const unsigned* b);  // of halves
void mma_m16n8k8_tf32(float* d, const unsigned* a, const unsigned* b);
void mma_sp_m16n8k32(Format format, float* d, const unsigned* a, const unsigned* b, unsigned metadata, int selector);

// `count` (1, 2 or 4) 8 x 8 matrices of 16-bit elements; lanes 8i to 8i+7 bring the rows of matrix i.
void ldmatrix(unsigned* registers, int count, const void* row, bool transposed);

void copy_async_16(void* shared, const void* global, bool valid);
void copy_async_commit();
void copy_async_wait(int pending);

}  // namespace host_cuda
