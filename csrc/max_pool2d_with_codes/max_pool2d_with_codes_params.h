// What the kernels of max_pool2d_with_codes are given, on every device: maps are channels_last.
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

struct GatherParams {
  PoolShape shape;
  const void* map;       // [N, H, W, C]
  const uint8_t* codes;  // [N, OH, OW, ceil(C / 4)]
  void* output;          // [N, OH, OW, C]
};

}  // namespace segnet_ext::max_pool2d_with_codes
