// CPU kernels of max_pool2d_with_codes over channels_last maps: plain pointers, no torch.
#pragma once

#include <cstdint>

#include "common/pool_shape.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::max_pool2d_with_codes {

struct ForwardParams {
  PoolShape shape;
  const void* input;  // [N, H, W, C]
  void* output;       // [N, OH, OW, C]
  uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
};

struct BackwardParams {
  PoolShape shape;
  const void* grad_output;  // [N, OH, OW, C]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  void* grad_input;         // [N, H, W, C]
};

// Each call computes the pooled rows [begin, end) of the N * OH there are, and what belongs to them.
void forward(DType dtype, const ForwardParams& params, int64_t begin, int64_t end);
void backward(DType dtype, const BackwardParams& params, int64_t begin, int64_t end);

}  // namespace segnet_ext::max_pool2d_with_codes
