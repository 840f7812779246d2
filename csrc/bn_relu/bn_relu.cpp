#include "bn_relu/bn_relu.h"

#include <ATen/ops/empty_like.h>

#include "common/dispatch.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {
namespace {

constexpr const char* kBnReluOp = "bn_relu_conv2d";

void check_runs_on_cuda(const at::Tensor& input) {
  TORCH_CHECK(kHasCudaKernels && runs_on_cuda(input), kBnReluOp, ": input must be on a CUDA device, got ",
              input.device());
}

}  // namespace

at::Tensor bn_relu_forward(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                           const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var,
                           double eps) {
  check_map(kBnReluOp, "input", input);
  check_runs_on_cuda(input);
  const bn_relu_max_pool2d::Norm norm = bn_relu_max_pool2d::make_norm(kBnReluOp, input, weight, bias, mean, var, eps);
  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor output = max_pool2d_with_codes::empty_output(map, map.size(2), map.size(3));
  if constexpr (kHasCudaKernels) {
    if (map.numel() > 0) {
      bn_relu::forward_cuda(map, norm, output);
    }
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> bn_relu_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                                                const std::optional<at::Tensor>& weight,
                                                                const std::optional<at::Tensor>& bias,
                                                                const at::Tensor& mean, const at::Tensor& var,
                                                                double eps, bool batch_statistics) {
  check_map(kBnReluOp, "input", input);
  check_runs_on_cuda(input);
  check_like(kBnReluOp, "grad_output", grad_output, input);
  TORCH_CHECK_VALUE(grad_output.sizes() == input.sizes(), kBnReluOp, ": grad_output must have the shape of input ",
                    input.sizes(), ", got ", grad_output.sizes());
  const bn_relu_max_pool2d::Norm norm = bn_relu_max_pool2d::make_norm(kBnReluOp, input, weight, bias, mean, var, eps);
  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor grad_input = max_pool2d_with_codes::empty_output(map, map.size(2), map.size(3));
  at::Tensor grad_weight = at::empty_like(norm.mean), grad_bias = at::empty_like(norm.mean);
  if (map.numel() == 0) {
    grad_weight.zero_();
    grad_bias.zero_();
  } else if constexpr (kHasCudaKernels) {
    bn_relu::backward_cuda(grad, map, norm, batch_statistics, grad_input, grad_weight, grad_bias);
  }
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace segnet_ext
