#pragma once

#include <ATen/core/Tensor.h>

namespace segnet_ext {

// codes [N, OH, OW, ceil(C / 4)] of the winners that torch's flat int64 indices [N, C, OH, OW] name in maps of
// input_size, (H, W) or (N, C, H, W). Raises where an index lies outside its own window.
at::Tensor indices_to_codes(const at::Tensor& indices, at::IntArrayRef input_size);

namespace indices_to_codes_impl {
// False where an index lies outside its own window.
bool run_cpu(const at::Tensor& indices, int64_t height, int64_t width, at::Tensor& codes);
bool run_cuda(const at::Tensor& indices, int64_t height, int64_t width, at::Tensor& codes);
}  // namespace indices_to_codes_impl

}  // namespace segnet_ext
