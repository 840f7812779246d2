// Stacks of their own, switched by hand on x86-64 (a few nanoseconds), by ucontext elsewhere (a system call).
#pragma once

#include <cstddef>

#if defined(__x86_64__) && !defined(SEGNET_HOST_CUDA_UCONTEXT)
#define HOST_CUDA_OWN_SWITCH 1
#else
#define HOST_CUDA_OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace host_cuda {

struct Context {
#if HOST_CUDA_OWN_SWITCH
  void* stack_pointer = nullptr;  // where the registers that a call preserves are saved
#else
  ucontext_t context;
#endif
};

// Makes a context that starts in entry(), which must not return, on the given stack.
void prepare(Context& context, char* stack, size_t bytes, void (*entry)());

// Saves the running context in `from` and goes on with `to`.
void switch_context(Context& from, Context& to);

}  // namespace host_cuda
