// What starts the CUDA kernels of codes_to_indices; codes_to_indices_kernel.cuh defines it.
#pragma once

#include "common/pool_shape.h"
#include "cuda/launcher.h"

namespace segnet_ext::codes_to_indices_impl {

struct KernelParams {
  PoolShape shape;
  const uint8_t* codes;  // [N, OH, OW, ceil(C / 4)]
  int64_t* indices;      // [N, OH, OW, C]
};

void launch(const cuda::Launcher& launcher, const KernelParams& p, int64_t threads_to_fill = cuda::kThreadsToFill);

}  // namespace segnet_ext::codes_to_indices_impl
