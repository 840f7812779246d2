// The 3x3 convolution kernels over torch's tensors and threads: what the operations that use them share.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "conv3x3/conv3x3_cpu_kernel.h"

namespace segnet_ext::conv3x3 {

// Is a convolution one for these kernels? With few channels the transforms cost more than they save.
bool suits(int64_t kernel_size, int64_t in_channels, int64_t out_channels);

// A weight [K, C, 3, 3] in one of the layouts that the kernels read: contiguous or channels_last, as it is or else made
// contiguous.
at::Tensor dense_weight(const at::Tensor& weight);

// Such a weight for the convolution from C to K channels, and for its gradient, from K to C.
Weight forward_weight(const at::Tensor& weight);
Weight transposed_weight(const at::Tensor& weight);

// Fills the output of `params`, whose other pointers are set.
void run_forward(at::ScalarType dtype, const ForwardParams& params);

// Gradient of the input of a convolution: of all of it or, where there are codes, at the winners.
void run_grad_input(const at::Tensor& grad_output, const at::Tensor& weight, const uint8_t* codes,
                    at::Tensor& grad_input);

// Gradient of the weight, of the dtype of grad_output, contiguous or channels_last.
void run_grad_weight(const Shape& shape, const Source& source, const at::Tensor& grad_output, at::Tensor& grad_weight);

}  // namespace segnet_ext::conv3x3
