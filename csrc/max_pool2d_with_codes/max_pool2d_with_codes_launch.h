// What starts the CUDA kernels of max_pool2d_with_codes; max_pool2d_with_codes_kernel.cuh defines it.
#pragma once

#include "cuda/launcher.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_params.h"

namespace segnet_ext::max_pool2d_with_codes {

void launch_forward(const cuda::Launcher& launch, DType dtype, const ForwardParams& p,
                    int64_t threads_to_fill = cuda::kThreadsToFill);

void launch_backward(const cuda::Launcher& launch, DType dtype, const BackwardParams& p,
                     int64_t threads_to_fill = cuda::kThreadsToFill);

void launch_gather(const cuda::Launcher& launch, DType dtype, const GatherParams& p,
                   int64_t threads_to_fill = cuda::kThreadsToFill);

}  // namespace segnet_ext::max_pool2d_with_codes
