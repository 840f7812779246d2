// What starts the CUDA kernels of indices_to_codes; indices_to_codes_kernel.cuh defines it.
#pragma once

#include "common/pool_shape.h"
#include "cuda/launcher.h"

namespace segnet_ext::indices_to_codes_impl {

struct KernelParams {
  PoolShape shape;
  const int64_t* indices;  // [N, OH, OW, C]
  uint8_t* codes;          // [N, OH, OW, ceil(C / 4)]
  int* outside;            // [1] whether an index lies outside its own window
};

void launch(const cuda::Launcher& launcher, const KernelParams& p, int64_t threads_to_fill = cuda::kThreadsToFill);

}  // namespace segnet_ext::indices_to_codes_impl
