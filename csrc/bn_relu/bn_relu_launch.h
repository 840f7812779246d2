// What starts the CUDA kernels of bn_relu; bn_relu_kernel.cuh defines it.
#pragma once

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "cuda/launcher.h"

namespace segnet_ext::bn_relu {

// output = relu(norm(input)), rounded before the ReLU as unfused operations would.
struct ForwardParams {
  int64_t pixels, channels;
  const void* input;  // [pixels, C]
  bn_relu_max_pool2d::NormParams norm;
  void* output;  // [pixels, C]
};

void launch_forward(const cuda::Launcher& launch, DType dtype, const ForwardParams& p,
                    int64_t threads_to_fill = cuda::kThreadsToFill);

// As bn_relu_max_pool2d's, without a pool: grad_output is [N, H, W, C], pooled sizes and codes are not looked at.
using BackwardParams = bn_relu_max_pool2d::NormedBackwardParams;

int64_t backward_parts(DType dtype, int64_t pixels, int64_t channels, int64_t threads_to_fill = cuda::kThreadsToFill);

void launch_backward(const cuda::Launcher& launch, DType dtype, const BackwardParams& params,
                     int64_t threads_to_fill = cuda::kThreadsToFill);

}  // namespace segnet_ext::bn_relu
