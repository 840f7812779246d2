// The warp's matrix instructions and asynchronous copies. Fragments are those of the PTX ISA document: A is row-major,
// B is held by its columns, and all 32 lanes call together.
//
// Where an architecture lacks the instruction the wrapper traps; kernels whose traits need it are not started there.
#pragma once

#include "cuda/platform.cuh"
#include "segnet_ext/dtypes.h"

#if !defined(__CUDACC__)
#include "host_cuda/matrix_ops.h"
#endif

namespace segnet_ext::cuda {

#if defined(__CUDACC__)
// The 32-bit address that instructions for shared memory take.
SEGNET_DEVICE unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}
#endif

// Four 8 x 8 matrices of 16-bit elements. Lanes 8i to 8i+7 give the 16-byte rows of matrix i; of it lane 4r+c gets
// columns 2c and 2c+1 of row r in r[i], or, transposed, rows 2c and 2c+1 of column r.
SEGNET_DEVICE void ldmatrix_x4(unsigned (&r)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  host_cuda::ldmatrix(r, 4, row, false);
#endif
}
SEGNET_DEVICE void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  host_cuda::ldmatrix(r, 4, row, true);
#endif
}
// Two matrices, whose rows lanes 0 to 15 give.
SEGNET_DEVICE void ldmatrix_x2(unsigned (&r)[2], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
#else
  host_cuda::ldmatrix(r, 2, row, false);
#endif
}
SEGNET_DEVICE void ldmatrix_x2_trans(unsigned (&r)[2], const void* row) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
#else
  host_cuda::ldmatrix(r, 2, row, true);
#endif
}

// d += a * b, 16 x 16 by 16 x 8. From 8.0 on.
SEGNET_DEVICE void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], half) {
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    trap();
  }
#else
  host_cuda::mma_m16n8k16(host_cuda::Format::kHalf, d, a, b);
#endif
}
SEGNET_DEVICE void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], bfloat16) {
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    trap();
  }
#else
  host_cuda::mma_m16n8k16(host_cuda::Format::kBFloat16, d, a, b);
#endif
}

// d += a * b, 16 x 8 by 8 x 8: what 7.5 has, for half alone.
SEGNET_DEVICE void mma_m16n8k8(float (&d)[4], const unsigned (&a)[2], unsigned b, half) {
#if defined(__CUDACC__)
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(b));
#else
  host_cuda::mma_m16n8k8(d, a, &b);
#endif
}

// d += a * b, 16 x 8 by 8 x 8, of floats cut to tf32: see round_to_tf32. From 8.0 on.
SEGNET_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    trap();
  }
#else
  host_cuda::mma_m16n8k8_tf32(d, a, b);
#endif
}

// Compilers from CUDA 12.5 on want to be told that positions ascend; from 9.0 on the other form may be slow.
#if defined(__CUDACC__)
#if __CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 5)
#define SEGNET_MMA_SP "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32."
#else
#define SEGNET_MMA_SP "mma.sp.sync.aligned.m16n8k32.row.col.f32."
#endif
#endif

// d += a * b, 16 x 32 by 32 x 8, where at most two of every four columns of a row of A differ from zero. a holds those
// two as m16n8k16 holds a 16 x 16 matrix. metadata holds where they were: four bits for four columns, the two positions
// from the low bits up, ascending. Lanes 4r + 2 kSelector and the next give it, for columns 0 to 15 and 16 to 31: row r
// in the low 16 bits, row r+8 in the high ones. From 8.0 on.
template <int kSelector>
SEGNET_DEVICE void mma_sp_m16n8k32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[4], unsigned metadata,
                                   half) {
  static_assert(kSelector == 0 || kSelector == 1, "the warp's lanes have two pairs in every four");
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile(SEGNET_MMA_SP
                 "f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
                   "r"(metadata), "n"(kSelector));
  } else {
    trap();
  }
#else
  host_cuda::mma_sp_m16n8k32(host_cuda::Format::kHalf, d, a, b, metadata, kSelector);
#endif
}
template <int kSelector>
SEGNET_DEVICE void mma_sp_m16n8k32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[4], unsigned metadata,
                                   bfloat16) {
  static_assert(kSelector == 0 || kSelector == 1, "the warp's lanes have two pairs in every four");
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile(SEGNET_MMA_SP
                 "bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
                   "r"(metadata), "n"(kSelector));
  } else {
    trap();
  }
#else
  host_cuda::mma_sp_m16n8k32(host_cuda::Format::kBFloat16, d, a, b, metadata, kSelector);
#endif
}
#undef SEGNET_MMA_SP

// Starts a copy of 16 bytes from global to shared memory, of zeros where not `valid` (the address is not read then).
// The bytes may be touched after the copy's group was waited for, by other threads after a barrier as well. Before 8.0
// the copy is done at once.
SEGNET_DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
  } else {
    *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : uint4{0, 0, 0, 0};
  }
#else
  host_cuda::copy_async_16(shared, global, valid);
#endif
}
// Ends a group of copies of this thread.
SEGNET_DEVICE void copy_async_commit() {
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
#else
  host_cuda::copy_async_commit();
#endif
}
// Waits for this thread's groups but the kPending last ones.
template <int kPending>
SEGNET_DEVICE void copy_async_wait() {
#if defined(__CUDACC__)
  if constexpr (compiled_for<80>()) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
  }
#else
  host_cuda::copy_async_wait(kPending);
#endif
}

}  // namespace segnet_ext::cuda
