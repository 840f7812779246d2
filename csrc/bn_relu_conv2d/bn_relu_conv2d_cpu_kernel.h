// The backward pass of BatchNorm and ReLU over a channels_last map: plain pointers, no torch.
#pragma once

#include <cstdint>

#include "segnet_ext/dtypes.h"

namespace segnet_ext::bn_relu_conv2d {

struct BackwardParams {
  int64_t pixels, channels;
  void* grad;         // [pixels, C]: the gradient of relu(bn(input)), overwritten by that of input
  const void* input;  // [pixels, C]
  const void* mean;   // all of these [C] of acc_t
  const void* scale;
  const void* shift;
  int64_t parts;
  double* partial_sum;      // [parts, C]: sums of the gradient
  double* partial_product;  // [parts, C]: sums of gradient * (input - mean)
  bool batch_statistics;
  const void* grad_offset;
  const void* grad_slope;
};

// Sums over parts [begin, end) of the pixels, and then the gradients of pixels [begin, end).
void backward_reduce(DType dtype, const BackwardParams& params, int64_t begin, int64_t end);
void backward_input(DType dtype, const BackwardParams& params, int64_t begin, int64_t end);

}  // namespace segnet_ext::bn_relu_conv2d
