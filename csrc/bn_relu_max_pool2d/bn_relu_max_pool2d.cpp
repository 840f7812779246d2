#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "common/dispatch.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {
namespace {

constexpr const char* kOp = "bn_relu_max_pool2d";

using namespace max_pool2d_with_codes;
using bn_relu_max_pool2d::Norm;

// BatchNorm's per-channel arguments may be of the input's dtype or of the type that it is accumulated in.
void check_channel_vector(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  const at::ScalarType acc = acc_scalar_type(input.scalar_type());
  TORCH_CHECK(tensor.device() == input.device(), op, ": ", name, " must be on the device of input (", input.device(),
              "), got ", tensor.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == input.scalar_type() || tensor.scalar_type() == acc, op, ": ", name,
                   " must have the dtype of input (", input.scalar_type(), ") or ", acc, ", got ",
                   tensor.scalar_type());
  check_shape(op, name, tensor, {input.size(1)}, "(C)");
}

at::Tensor channel_vector(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  constexpr uintptr_t kAlignment = 16;
  check_channel_vector(op, name, tensor, input);
  const at::ScalarType acc = acc_scalar_type(input.scalar_type());
  at::Tensor vector = (tensor.scalar_type() == acc ? tensor : tensor.to(acc)).contiguous();
  return reinterpret_cast<uintptr_t>(vector.const_data_ptr()) % kAlignment == 0 ? vector : vector.clone();
}

}  // namespace

namespace bn_relu_max_pool2d {

void check_affine(const char* op, const at::Tensor& input, const std::optional<at::Tensor>& weight,
                  const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var) {
  check_channel_vector(op, "running_mean", mean, input);
  check_channel_vector(op, "running_var", var, input);
  if (weight) {
    check_channel_vector(op, "weight", *weight, input);
  }
  if (bias) {
    check_channel_vector(op, "bias", *bias, input);
  }
}

Norm make_norm(const char* op, const at::Tensor& input, const std::optional<at::Tensor>& weight,
               const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var, double eps) {
  return {channel_vector(op, "running_mean", mean, input), channel_vector(op, "running_var", var, input),
          weight ? channel_vector(op, "weight", *weight, input) : at::Tensor(),
          bias ? channel_vector(op, "bias", *bias, input) : at::Tensor(), eps};
}

}  // namespace bn_relu_max_pool2d

std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_stats(const at::Tensor& input) {
  check_map(kOp, "input", input);
  const int64_t values = input.size(0) * input.size(2) * input.size(3);
  TORCH_CHECK_VALUE(values != 1, kOp, ": input must have more than one value per channel in training, got shape ",
                    input.sizes());

  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  const auto options = map.options().dtype(acc_scalar_type(map.scalar_type()));
  if (values == 0) {
    return {at::zeros({map.size(1)}, options), at::zeros({map.size(1)}, options)};
  }
  at::Tensor mean = at::empty({map.size(1)}, options), var = at::empty({map.size(1)}, options);
  SEGNET_DISPATCH(map, bn_relu_max_pool2d::stats, map, mean, var);
  return {mean, var};
}

void update_running_stats(const at::Tensor& mean, const at::Tensor& var, int64_t values, at::Tensor running_mean,
                          at::Tensor running_var, double momentum) {
  if (values == 0) {
    return;
  }
  const at::NoGradGuard no_grad;
  const double unbiased = static_cast<double>(values) / static_cast<double>(values - 1);
  const auto fits = [&](const at::Tensor& running) {
    return running.device() == mean.device() && running.scalar_type() == mean.scalar_type() &&
           (running.is_contiguous() || (!runs_on_cuda(running) && running.stride(0) > 0));
  };
  if (has_kernels_for(mean) && fits(running_mean) && fits(running_var)) {
    SEGNET_DISPATCH(mean, bn_relu_max_pool2d::running_stats, mean, var, unbiased, momentum, running_mean, running_var);
    running_mean.unsafeGetTensorImpl()->bump_version();
    running_var.unsafeGetTensorImpl()->bump_version();
    return;
  }
  const auto move = [momentum](const at::Tensor& running, const at::Tensor& batch) {
    if (running.scalar_type() == batch.scalar_type()) {
      running.lerp_(batch, momentum);
    } else {  // in the batch's precision, rounded once
      running.copy_(running.to(batch.scalar_type()).lerp_(batch, momentum));
    }
  };
  move(running_mean, mean);
  move(running_var, var.mul(unbiased));
}

std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_forward(const at::Tensor& input,
                                                              const std::optional<at::Tensor>& weight,
                                                              const std::optional<at::Tensor>& bias,
                                                              const at::Tensor& mean, const at::Tensor& var, double eps,
                                                              bool ceil_mode) {
  check_map(kOp, "input", input);
  const PoolShape shape = pool_shape(kOp, input, ceil_mode);
  const Norm norm = bn_relu_max_pool2d::make_norm(kOp, input, weight, bias, mean, var, eps);

  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor output = empty_output(map, shape.pooled_height, shape.pooled_width);
  at::Tensor codes = empty_codes(map, shape);
  if (output.numel() > 0) {
    SEGNET_DISPATCH(map, bn_relu_max_pool2d::forward, shape, map, norm, output, codes);
  }
  return {output, codes};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> bn_relu_max_pool2d_backward(
    const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& codes,
    const std::optional<at::Tensor>& output, const std::optional<at::Tensor>& weight,
    const std::optional<at::Tensor>& bias, const at::Tensor& mean, const at::Tensor& var, double eps,
    bool batch_statistics) {
  const char* op = "bn_relu_max_pool2d_backward";
  check_map(op, "input", input);
  check_map(op, "grad_output", grad_output);
  check_like(op, "grad_output", grad_output, input);
  const PoolShape shape = unpool_shape(op, grad_output, input.size(2), input.size(3));
  check_shape(op, "grad_output", grad_output, {input.size(0), input.size(1), shape.pooled_height, shape.pooled_width},
              "(N, C, OH, OW)");
  check_codes(op, codes, input.device(), shape.batch, shape.channels, shape.pooled_height, shape.pooled_width);
  const Norm norm = bn_relu_max_pool2d::make_norm(kOp, input, weight, bias, mean, var, eps);
  at::Tensor pooled;
  if (output) {
    check_like(op, "output", *output, input);
    check_shape(op, "output", *output, grad_output.sizes(), "(N, C, OH, OW)");
    if (bn_relu_max_pool2d::backward_wants_output(input, batch_statistics)) {
      pooled = output->contiguous(at::MemoryFormat::ChannelsLast);
    }
  }

  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor grad_input = empty_output(map, shape.height, shape.width);
  if (grad.numel() == 0) {
    return {grad_input, at::zeros({shape.channels}, norm.mean.options()),
            at::zeros({shape.channels}, norm.mean.options())};
  }
  const auto options = norm.mean.options();
  at::Tensor grad_weight = at::empty({shape.channels}, options), grad_bias = at::empty({shape.channels}, options);
  SEGNET_DISPATCH(map, bn_relu_max_pool2d::backward, shape, grad, map, codes, pooled, norm, batch_statistics,
                  grad_input, grad_weight, grad_bias);
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace segnet_ext
