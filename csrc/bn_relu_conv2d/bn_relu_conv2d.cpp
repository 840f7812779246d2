#include "bn_relu_conv2d/bn_relu_conv2d.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "bn_relu_conv2d/bn_relu_conv2d_cpu_kernel.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "common/convolution.h"
#include "common/dispatch.h"
#include "common/line_array.h"
#include "common/map_memory.h"
#include "common/parallel.h"
#include "conv3x3/conv3x3.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"
#include "segnet_ext/checks.h"
#include "segnet_ext/elementwise.h"

namespace segnet_ext {
namespace {

using bn_relu_max_pool2d::Affine;
using bn_relu_max_pool2d::row_of;
using max_pool2d_with_codes::empty_output;
using max_pool2d_with_codes::unpool_shape;

// What is convolved, its tensors kept alive.
struct Operand {
  at::Tensor map;
  std::optional<Affine> affine;
  conv3x3::Source source;
};

// The BatchNorm in front of a convolution, if there is one; its arguments are checked in the name of `op`.
std::optional<bn_relu_max_pool2d::Norm> make_norm(const char* op, const at::Tensor& input,
                                                  const std::optional<at::Tensor>& bn_weight,
                                                  const std::optional<at::Tensor>& bn_bias,
                                                  const std::optional<at::Tensor>& mean,
                                                  const std::optional<at::Tensor>& var, double eps) {
  if (!mean) {
    return std::nullopt;
  }
  return bn_relu_max_pool2d::make_norm(op, input, bn_weight, bn_bias, *mean, var.value(), eps);
}

Operand make_operand(const char* op, const at::Tensor& input, const std::optional<at::Tensor>& bn_weight,
                     const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
                     const std::optional<at::Tensor>& var, double eps, const std::optional<at::Tensor>& codes,
                     int64_t height, int64_t width) {
  check_map(op, "input", input);
  TORCH_CHECK(input.is_cpu(), op, ": input must be on the CPU, got ", input.device());
  Operand operand{input.contiguous(at::MemoryFormat::ChannelsLast), std::nullopt, {}};
  operand.source.map = operand.map.const_data_ptr();
  operand.source.pooled_height = input.size(2);
  operand.source.pooled_width = input.size(3);
  if (codes) {
    const PoolShape pool = unpool_shape(op, input, height, width);
    check_codes(op, *codes, input.device(), pool.batch, pool.channels, pool.pooled_height, pool.pooled_width);
    operand.source.codes = codes->const_data_ptr<uint8_t>();
  } else {
    TORCH_CHECK_VALUE(input.size(2) == height && input.size(3) == width, op, ": output_size must be that of input (",
                      input.size(2), ", ", input.size(3), ") unless codes are given, got (", height, ", ", width, ")");
  }
  if (const auto norm = make_norm(op, input, bn_weight, bn_bias, mean, var, eps)) {
    operand.affine = bn_relu_max_pool2d::make_affine(*norm);
    operand.source.scale = operand.affine->scale();
    operand.source.shift = operand.affine->shift();
  }
  return operand;
}

void check_weight_3x3(const char* op, const at::Tensor& weight, const at::Tensor& input) {
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(0) > 0 && weight.size(2) == 3 && weight.size(3) == 3, op,
                    ": weight must be [K, C, 3, 3], got shape ", weight.sizes());
  check_like(op, "weight", weight, input);
  TORCH_CHECK_VALUE(weight.size(1) == input.size(1), op, ": weight must be [K, C, 3, 3] with C = ", input.size(1),
                    ", got shape ", weight.sizes());
}

// A convolution's weight and bias as the kernels read them, the latter undefined where there is none.
struct Convolution {
  at::Tensor weight, bias;
};

Convolution make_convolution(const char* op, const at::Tensor& input, const at::Tensor& weight,
                             const std::optional<at::Tensor>& bias) {
  check_weight_3x3(op, weight, input);
  if (bias) {
    check_like(op, "bias", *bias, input);
    check_shape(op, "bias", *bias, {weight.size(0)}, "(K)");
  }
  return {conv3x3::dense_weight(weight), bias ? bias->contiguous() : at::Tensor()};
}

// What writes the whole map of height x width to output.
conv3x3::ForwardParams forward_params(const Operand& operand, const Convolution& convolution, int64_t height,
                                      int64_t width, bool relu, at::Tensor& output) {
  conv3x3::ForwardParams params{};
  params.shape = {operand.map.size(0), operand.map.size(1), convolution.weight.size(0), height, width};
  params.source = operand.source;
  params.weight = conv3x3::forward_weight(convolution.weight);
  params.bias = convolution.bias.defined() ? convolution.bias.const_data_ptr() : nullptr;
  params.relu = relu;
  params.result = conv3x3::Result::kMap;
  params.output = output.mutable_data_ptr();
  return params;
}

// Writes the gradient of a BatchNorm's input over that of the ReLU behind it; returns those of its weight and bias.
std::tuple<at::Tensor, at::Tensor> batch_norm_backward(const Operand& operand, at::Tensor& grad,
                                                       bool batch_statistics) {
  const Affine& affine = *operand.affine;
  const DType dtype = to_dtype(grad.scalar_type());
  const int64_t channels = grad.size(1), pixels = grad.numel() / std::max<int64_t>(channels, 1);
  const auto options = affine.mean.options();
  at::Tensor grad_weight = at::empty({channels}, options), grad_bias = at::empty({channels}, options);
  const at::Tensor lines = at::empty({2, channels}, options);
  // By the number of pixels alone, never by the number of threads.
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(64, pixels * channels / kGrainElements));
  const LineArray<double> partial(new_lines<double>(2 * parts * channels));

  bn_relu_conv2d::BackwardParams params{};
  params.pixels = pixels;
  params.channels = channels;
  params.grad = grad.mutable_data_ptr();
  params.input = operand.map.const_data_ptr();
  params.mean = affine.mean.const_data_ptr();
  params.scale = affine.scale();
  params.shift = affine.shift();
  params.parts = parts;
  params.partial_sum = partial.get();
  params.partial_product = params.partial_sum + parts * channels;
  params.batch_statistics = batch_statistics;
  params.grad_offset = row_of(lines, 0);
  params.grad_slope = row_of(lines, 1);

  parallel_tasks(parts, kGrainElements,
                 [&](int64_t begin, int64_t end) { backward_reduce(dtype, params, begin, end); });
  bn_relu_max_pool2d::merge_sums(partial.get(), parts, pixels, affine, grad_weight, grad_bias, row_of(lines, 0),
                                 row_of(lines, 1));
  parallel_tasks(pixels, channels, [&](int64_t begin, int64_t end) { backward_input(dtype, params, begin, end); });
  return {grad_weight, grad_bias};
}

// Checks a gradient [N, K, H, W] of the result for input and weight.
void check_grad_output(const char* op, const at::Tensor& grad_output, const at::Tensor& input,
                       const at::Tensor& weight) {
  check_map(op, "input", input);
  check_map(op, "grad_output", grad_output);
  check_like(op, "grad_output", grad_output, input);
  check_like(op, "weight", weight, input);
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.size(0) == grad_output.size(1) && weight.size(1) == input.size(1) &&
                        grad_output.size(0) == input.size(0),
                    op, ": grad_output must be [N, K, H, W] for input ", input.sizes(), " and weight ", weight.sizes(),
                    ", got ", grad_output.sizes());
}

}  // namespace

void bn_relu_conv2d_check(const at::Tensor& input, const std::optional<at::Tensor>& bn_weight,
                          const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
                          const std::optional<at::Tensor>& var, const std::optional<at::Tensor>& codes, int64_t height,
                          int64_t width, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const char* op = "bn_relu_conv2d";
  check_map(op, "input", input);
  if (codes) {
    const PoolShape pool = unpool_shape(op, input, height, width);
    check_codes(op, *codes, input.device(), pool.batch, pool.channels, pool.pooled_height, pool.pooled_width);
  }
  check_like(op, "weight", weight, input);
  TORCH_CHECK_VALUE(weight.size(0) > 0, op, ": weight must have at least one output channel, got shape ",
                    weight.sizes());
  if (bias) {
    check_like(op, "bias", *bias, input);
    check_shape(op, "bias", *bias, {weight.size(0)}, "(K)");
  }
  if (mean) {
    bn_relu_max_pool2d::check_affine(op, input, bn_weight, bn_bias, *mean, var.value());
  }
}

at::Tensor bn_relu_conv2d_forward(const at::Tensor& input, const std::optional<at::Tensor>& bn_weight,
                                  const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
                                  const std::optional<at::Tensor>& var, double eps,
                                  const std::optional<at::Tensor>& codes, int64_t height, int64_t width,
                                  const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool relu) {
  const char* op = "bn_relu_conv2d";
  if constexpr (kHasCudaKernels) {
    if (runs_on_cuda(input)) {
      bn_relu_conv2d_check(input, bn_weight, bn_bias, mean, var, codes, height, width, weight, bias);
      if (input.numel() == 0) {
        return at::empty({input.size(0), weight.size(0), height, width},
                         input.options().memory_format(at::MemoryFormat::ChannelsLast));
      }
      return bn_relu_conv2d::forward_cuda(input, make_norm(op, input, bn_weight, bn_bias, mean, var, eps), codes,
                                          height, width, weight, bias, relu);
    }
  }
  const Operand operand = make_operand(op, input, bn_weight, bn_bias, mean, var, eps, codes, height, width);
  const Convolution convolution = make_convolution(op, input, weight, bias);
  at::Tensor output = empty_map({input.size(0), weight.size(0), height, width}, input.options());
  if (output.numel() > 0) {
    conv3x3::ForwardParams params = forward_params(operand, convolution, height, width, relu, output);
    conv3x3::run_forward(input.scalar_type(), params);
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> bn_relu_conv2d_grad_input(
    const at::Tensor& grad_output, const at::Tensor& input, const std::optional<at::Tensor>& bn_weight,
    const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
    const std::optional<at::Tensor>& var, double eps, bool batch_statistics, const std::optional<at::Tensor>& codes,
    const at::Tensor& weight) {
  const char* op = "bn_relu_conv2d_grad_input";
  check_grad_output(op, grad_output, input, weight);
  if constexpr (kHasCudaKernels) {
    if (runs_on_cuda(input)) {
      const auto norm = make_norm(op, input, bn_weight, bn_bias, mean, var, eps);
      if (input.numel() == 0) {
        const at::Tensor zeros = norm ? at::zeros_like(norm->mean) : at::empty({0}, input.options());
        return {at::empty_like(input, input.options().memory_format(at::MemoryFormat::ChannelsLast)), zeros,
                zeros.clone()};
      }
      return bn_relu_conv2d::grad_input_cuda(grad_output, input, norm, batch_statistics, codes, weight);
    }
  }
  const Operand operand =
      make_operand(op, input, bn_weight, bn_bias, mean, var, eps, codes, grad_output.size(2), grad_output.size(3));
  check_weight_3x3(op, weight, input);

  at::Tensor grad_input = empty_output(operand.map, input.size(2), input.size(3));
  if (grad_input.numel() > 0) {
    const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
    conv3x3::run_grad_input(grad, weight, operand.source.codes, grad_input);
  }
  if (!operand.affine) {
    return {grad_input, at::empty({0}, input.options()), at::empty({0}, input.options())};
  }
  auto [grad_weight, grad_bias] = batch_norm_backward(operand, grad_input, batch_statistics);
  return {grad_input, grad_weight, grad_bias};
}

at::Tensor bn_relu_conv2d_grad_weight(const at::Tensor& grad_output, const at::Tensor& input,
                                      const std::optional<at::Tensor>& bn_weight,
                                      const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& mean,
                                      const std::optional<at::Tensor>& var, double eps,
                                      const std::optional<at::Tensor>& codes, const at::Tensor& weight) {
  const char* op = "bn_relu_conv2d_grad_weight";
  check_grad_output(op, grad_output, input, weight);
  const bool channels_last = is_channels_last(weight);
  if constexpr (kHasCudaKernels) {
    if (runs_on_cuda(input)) {
      if (input.numel() == 0) {
        return at::zeros(weight.sizes(), input.options()).contiguous(weight_format(channels_last));
      }
      return bn_relu_conv2d::grad_weight_cuda(grad_output, input,
                                              make_norm(op, input, bn_weight, bn_bias, mean, var, eps), codes,
                                              weight.size(2), channels_last);
    }
  }
  check_weight_3x3(op, weight, input);
  const Operand operand =
      make_operand(op, input, bn_weight, bn_bias, mean, var, eps, codes, grad_output.size(2), grad_output.size(3));
  const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor grad_weight =
      empty_large({grad.size(1), input.size(1), 3, 3}, input.options(), weight_format(channels_last));
  if (grad.numel() == 0) {
    grad_weight.zero_();
  } else {
    const conv3x3::Shape shape{grad.size(0), input.size(1), grad.size(1), grad.size(2), grad.size(3)};
    conv3x3::run_grad_weight(shape, operand.source, grad, grad_weight);
  }
  return grad_weight;
}

std::tuple<at::Tensor, at::Tensor> conv2d_relu_max_pool2d(const at::Tensor& input, const at::Tensor& weight,
                                                          const std::optional<at::Tensor>& bias) {
  const char* op = "conv2d_relu_max_pool2d";
  check_map(op, "input", input);
  const int64_t height = input.size(2), width = input.size(3);
  if constexpr (kHasCudaKernels) {
    if (runs_on_cuda(input)) {
      return max_pool2d_with_codes_forward(
          bn_relu_conv2d_forward(input, {}, {}, {}, {}, 0.0, {}, height, width, weight, bias, /*relu=*/true),
          /*ceil_mode=*/true);
    }
  }
  const Operand operand = make_operand(op, input, {}, {}, {}, {}, 0.0, {}, height, width);
  const Convolution convolution = make_convolution(op, input, weight, bias);
  const PoolShape pool{input.size(0),           weight.size(0), height, width, pooled_size(height, true),
                       pooled_size(width, true)};
  at::Tensor output =
      empty_map({input.size(0), weight.size(0), pool.pooled_height, pool.pooled_width}, input.options());
  at::Tensor winners = max_pool2d_with_codes::empty_codes(input, pool);
  if (output.numel() > 0) {
    conv3x3::ForwardParams params = forward_params(operand, convolution, height, width, /*relu=*/true, output);
    params.result = conv3x3::Result::kPool;
    params.codes_out = winners.mutable_data_ptr<uint8_t>();
    params.pooled_height = pool.pooled_height;
    params.pooled_width = pool.pooled_width;
    conv3x3::run_forward(input.scalar_type(), params);
  }
  return {output, winners};
}

}  // namespace segnet_ext
