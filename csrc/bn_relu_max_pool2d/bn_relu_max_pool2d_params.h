// What the CPU kernels of bn_relu_max_pool2d are given: maps are channels_last, and arrays of [C] hold acc_t, which is
// double for double maps and float for all others.
#pragma once

#include <cstdint>

#include "common/pool_shape.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::bn_relu_max_pool2d {

struct ForwardParams {
  PoolShape shape;
  const void* input;  // [N, H, W, C]
  const void* scale;  // [C]
  const void* shift;  // [C]
  void* output;       // [N, OH, OW, C]
  uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
};

struct BackwardParams {
  PoolShape shape;
  const void* grad_output;  // [N, OH, OW, C]
  const void* input;        // [N, H, W, C]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  const void* mean;         // [C]
  const void* scale;        // [C] weight * invstd
  const void* shift;        // [C] bias - mean * scale

  // The sums over winners. They are cut into parts by the sizes alone and merged in order, so that no result depends on
  // how many threads there are.
  int64_t parts;
  double* partial_sum;      // [parts, C] sum of the gradient that reaches the normalised map
  double* partial_product;  // [parts, C] sum of that gradient times (input - mean)
  // float and double only: if it is given, the sums are taken from the output, a quarter of the input, and origin and
  // slope ([C]) are BatchNormInverse's. A slope of NaN says that a channel is to go by the input, and `by_input` that
  // there are such channels.
  const void* output;  // [N, OH, OW, C]
  const void *origin, *slope;
  bool by_input;

  // grad_input
  bool batch_statistics;    // whether mean and variance came from the batch, and so carry gradient
  const void* grad_offset;  // [C] BatchNormInputGrad's
  const void* grad_slope;   // [C] BatchNormInputGrad's
  void* grad_input;         // [N, H, W, C]
};

}  // namespace segnet_ext::bn_relu_max_pool2d
