// What starts the CUDA kernels of conv_bias; conv_bias_kernel.cuh defines it.
#pragma once

#include "cuda/launcher.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::conv_bias {

// result = map + bias, then ReLU if asked for; may be done in place.
struct AddParams {
  int64_t pixels, channels;
  const void* bias;  // [K] of the map's type, or null
  bool relu;
  const void* map;  // [pixels, K]
  void* result;     // [pixels, K]
};

// Sums over the pixels, in parts that are merged in order.
struct GradParams {
  int64_t pixels, channels;
  int64_t parts;            // grad_parts(...): room for so many
  const void* grad_output;  // [pixels, K]
  void* partial;            // [parts, K] of acc_t
  void* grad_bias;          // [K]
};

void launch_add(const cuda::Launcher& launch, DType dtype, const AddParams& p,
                int64_t threads_to_fill = cuda::kThreadsToFill);

int64_t grad_parts(DType dtype, int64_t pixels, int64_t channels, int64_t threads_to_fill = cuda::kThreadsToFill);

void launch_grad(const cuda::Launcher& launch, DType dtype, const GradParams& p,
                 int64_t threads_to_fill = cuda::kThreadsToFill);

}  // namespace segnet_ext::conv_bias
