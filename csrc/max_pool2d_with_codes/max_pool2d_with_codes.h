#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "common/pool_shape.h"

namespace segnet_ext {

// 2x2, stride-2 max pool of input [N, C, H, W]: output [N, C, OH, OW], channels_last, and codes
// [N, OH, OW, ceil(C / 4)] (see segnet_ext/codes.h).
std::tuple<at::Tensor, at::Tensor> max_pool2d_with_codes_forward(const at::Tensor& input, bool ceil_mode);

// grad_input [N, C, height, width], channels_last.
at::Tensor max_pool2d_with_codes_backward(const at::Tensor& grad_output, const at::Tensor& codes, int64_t height,
                                          int64_t width);

namespace max_pool2d_with_codes {

// The sizes of a pool over `input`, checked: floor mode needs a whole window.
PoolShape pool_shape(const char* op, const at::Tensor& input, bool ceil_mode);
// The sizes of the pool that made a map like `pooled` from a map of height x width, checked.
PoolShape unpool_shape(const char* op, const at::Tensor& pooled, int64_t height, int64_t width);
// Uninitialised results of a pool.
at::Tensor empty_output(const at::Tensor& input, int64_t height, int64_t width);
at::Tensor empty_codes(const at::Tensor& input, const PoolShape& shape);

// All maps channels_last, codes contiguous, nothing empty.
void forward_cpu(const PoolShape& shape, const at::Tensor& input, at::Tensor& output, at::Tensor& codes);
void backward_cpu(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                  at::Tensor& grad_input);
void forward_cuda(const PoolShape& shape, const at::Tensor& input, at::Tensor& output, at::Tensor& codes);
void backward_cuda(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                   at::Tensor& grad_input);
// The map's values at the winners: what backward's own gradient would be.
void gather_cuda(const PoolShape& shape, const at::Tensor& map, const at::Tensor& codes, at::Tensor& output);

}  // namespace max_pool2d_with_codes
}  // namespace segnet_ext
