#pragma once

#include <ATen/core/Tensor.h>

namespace segnet_ext {

// torch's flat int64 indices [N, C, OH, OW], channels_last, of the winners that codes [N, OH, OW, ceil(C / 4)] name in
// maps of input_size (N, C, H, W).
at::Tensor codes_to_indices(const at::Tensor& codes, at::IntArrayRef input_size);

namespace codes_to_indices_impl {
void run_cpu(const at::Tensor& codes, at::IntArrayRef input_size, at::Tensor& indices);
void run_cuda(const at::Tensor& codes, at::IntArrayRef input_size, at::Tensor& indices);
}  // namespace codes_to_indices_impl

}  // namespace segnet_ext
