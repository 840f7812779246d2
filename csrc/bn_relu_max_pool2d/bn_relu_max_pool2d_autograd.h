// bn_relu_max_pool2d as one call, graph and running statistics included.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace segnet_ext {

// What segnet_ext.ops.bn_relu_max_pool2d documents, for plain tensors in eager mode. In Python the same steps take
// longer than the kernels do for the maps of the deeper stages. The running statistics are both given or, in training,
// neither.
std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_call(const at::Tensor& input,
                                                           const std::optional<at::Tensor>& weight,
                                                           const std::optional<at::Tensor>& bias,
                                                           const std::optional<at::Tensor>& running_mean,
                                                           const std::optional<at::Tensor>& running_var, bool training,
                                                           double momentum, double eps, bool ceil_mode);

}  // namespace segnet_ext
