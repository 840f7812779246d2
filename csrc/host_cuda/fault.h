#pragma once

#include "host_cuda/host_cuda.h"

namespace host_cuda {

// Ends the running kernel: its launch throws a Fault with this text and the place. `code` is where in the program the
// kernel was, if known. Takes a format so that nothing is allocated on the fiber's stack, which is left without
// unwinding.
[[noreturn]] __attribute__((format(printf, 3, 4))) void fail(FaultKind kind, const void* code, const char* format, ...);

// Inside a function that a kernel called: the place of the call.
#define HOST_CUDA_CALLER __builtin_return_address(0)

}  // namespace host_cuda
