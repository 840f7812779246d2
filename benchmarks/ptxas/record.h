// For ptxas_report.py: an operation's .cu runs its launch code over sizes of SegNet and others, and recorder.cpp, which
// it is linked with in place of CUDA's runtime library, writes down what is launched. No GPU is needed.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "segnet_ext/dtypes.h"

// What a kernel for other architectures looks like in the object file.
extern "C" __global__ void segnet_ext_empty_kernel() {
  segnet_ext::cuda::trap();
}

namespace segnet_ext::record {

constexpr DType kDTypes[] = {DType::kFloat, DType::kDouble, DType::kBFloat16, DType::kHalf};

// Names the sizes of the launches that follow. Those with an empty name stay out of the table; they reach kernels that
// SegNet's sizes leave out.
extern const char* current_case;

// Memory that is only pointed at. The misaligned one rules out vector accesses.
inline void* aligned() {
  return reinterpret_cast<void*>(uintptr_t{4096});
}
inline void* misaligned() {
  return reinterpret_cast<void*>(uintptr_t{4096 + 8});
}

// Defined by each operation's .cu.
void run(const cuda::Launcher& launch);

// For recorder.cpp, which sees no header of CUDA's.
void run_for(int arch, int64_t shared_limit) {
  run(cuda::Launcher(nullptr, arch, shared_limit));
}

}  // namespace segnet_ext::record
