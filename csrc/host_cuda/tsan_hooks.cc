// What the compiler calls for every memory access of code that it instruments for the thread sanitizer. Here each one
// is an access of a kernel, or of the host program while no kernel runs, which passes. Hidden, so that a module with
// these hooks does not answer for a sanitizer elsewhere in the process.
#include "host_cuda/executor.h"

using host_cuda::Executor;

namespace {

inline void access(const void* address, size_t bytes, bool write, bool aligned, const void* code) {
  if (Executor* executor = Executor::running()) {
    executor->check_access(reinterpret_cast<uintptr_t>(address), bytes, write, aligned, code);
  }
}

}  // namespace

#define HOOK extern "C" __attribute__((visibility("hidden")))
#define HOOKS_OF_SIZE(bytes)                                  \
  HOOK void __tsan_read##bytes(void* address) {               \
    access(address, bytes, false, true, HOST_CUDA_CALLER);    \
  }                                                           \
  HOOK void __tsan_write##bytes(void* address) {              \
    access(address, bytes, true, true, HOST_CUDA_CALLER);     \
  }                                                           \
  HOOK void __tsan_volatile_read##bytes(void* a) {            \
    access(a, bytes, false, true, HOST_CUDA_CALLER);          \
  }                                                           \
  HOOK void __tsan_volatile_write##bytes(void* a) {           \
    access(a, bytes, true, true, HOST_CUDA_CALLER);           \
  }                                                           \
  HOOK void __tsan_unaligned_read##bytes(void* a) {           \
    access(a, bytes, false, false, HOST_CUDA_CALLER);         \
  }                                                           \
  HOOK void __tsan_unaligned_write##bytes(void* a) {          \
    access(a, bytes, true, false, HOST_CUDA_CALLER);          \
  }                                                           \
  HOOK void __tsan_unaligned_volatile_read##bytes(void* a) {  \
    access(a, bytes, false, false, HOST_CUDA_CALLER);         \
  }                                                           \
  HOOK void __tsan_unaligned_volatile_write##bytes(void* a) { \
    access(a, bytes, true, false, HOST_CUDA_CALLER);          \
  }

HOOKS_OF_SIZE(1)
HOOKS_OF_SIZE(2)
HOOKS_OF_SIZE(4)
HOOKS_OF_SIZE(8)
HOOKS_OF_SIZE(16)

HOOK void __tsan_read_range(void* address, size_t bytes) {
  access(address, bytes, false, false, HOST_CUDA_CALLER);
}
HOOK void __tsan_write_range(void* address, size_t bytes) {
  access(address, bytes, true, false, HOST_CUDA_CALLER);
}

HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_vptr_update(void**, void*) {}
HOOK void __tsan_vptr_read(void**) {}

// Atomic operations are replaced by calls, so these do them: for the host code of such files, as kernels use none.
#define ATOMIC_UPDATE(bits, type, name)                                   \
  HOOK type __tsan_atomic##bits##_##name(volatile type* a, type v, int) { \
    return __atomic_##name(a, v, __ATOMIC_SEQ_CST);                       \
  }
#define ATOMICS_OF_SIZE(bits, type)                                                                     \
  HOOK type __tsan_atomic##bits##_load(const volatile type* a, int) {                                   \
    return __atomic_load_n(a, __ATOMIC_SEQ_CST);                                                        \
  }                                                                                                     \
  HOOK void __tsan_atomic##bits##_store(volatile type* a, type v, int) {                                \
    __atomic_store_n(a, v, __ATOMIC_SEQ_CST);                                                           \
  }                                                                                                     \
  HOOK type __tsan_atomic##bits##_exchange(volatile type* a, type v, int) {                             \
    return __atomic_exchange_n(a, v, __ATOMIC_SEQ_CST);                                                 \
  }                                                                                                     \
  HOOK int __tsan_atomic##bits##_compare_exchange_strong(volatile type* a, type* c, type v, int, int) { \
    return __atomic_compare_exchange_n(a, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);             \
  }                                                                                                     \
  HOOK int __tsan_atomic##bits##_compare_exchange_weak(volatile type* a, type* c, type v, int, int) {   \
    return __atomic_compare_exchange_n(a, c, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);              \
  }                                                                                                     \
  HOOK type __tsan_atomic##bits##_compare_exchange_val(volatile type* a, type c, type v, int, int) {    \
    __atomic_compare_exchange_n(a, &c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                   \
    return c;                                                                                           \
  }                                                                                                     \
  ATOMIC_UPDATE(bits, type, fetch_add)                                                                  \
  ATOMIC_UPDATE(bits, type, fetch_sub)                                                                  \
  ATOMIC_UPDATE(bits, type, fetch_and)                                                                  \
  ATOMIC_UPDATE(bits, type, fetch_or)                                                                   \
  ATOMIC_UPDATE(bits, type, fetch_xor)                                                                  \
  ATOMIC_UPDATE(bits, type, fetch_nand)

ATOMICS_OF_SIZE(8, uint8_t)
ATOMICS_OF_SIZE(16, uint16_t)
ATOMICS_OF_SIZE(32, uint32_t)
ATOMICS_OF_SIZE(64, uint64_t)

HOOK void __tsan_atomic_thread_fence(int) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
HOOK void __tsan_atomic_signal_fence(int) {
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
