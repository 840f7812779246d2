// CPU kernels of max_pool2d_with_codes over channels_last maps: plain pointers, no torch.
#pragma once

#include "max_pool2d_with_codes/max_pool2d_with_codes_params.h"

namespace segnet_ext::max_pool2d_with_codes {

// Each call computes the pooled rows [begin, end) of the N * OH there are, and what belongs to them.
void forward(DType dtype, const ForwardParams& params, int64_t begin, int64_t end);
void backward(DType dtype, const BackwardParams& params, int64_t begin, int64_t end);

}  // namespace segnet_ext::max_pool2d_with_codes
