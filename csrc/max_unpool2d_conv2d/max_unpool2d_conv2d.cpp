#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "common/convolution.h"
#include "common/dispatch.h"
#include "common/map_memory.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_shape.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {
namespace {

using max_pool2d_with_codes::empty_output;
using max_pool2d_with_codes::unpool_shape;
using max_unpool2d_conv2d::Shape;

void check_kernel_size(const char* op, int64_t kernel_height, int64_t kernel_width) {
  TORCH_CHECK_VALUE(kernel_height == kernel_width && kernel_height % 2 == 1, op,
                    ": weight must have an odd square kernel, got ", kernel_height, "x", kernel_width);
}

void check_weight(const char* op, const at::Tensor& weight, const at::Tensor& like) {
  TORCH_CHECK_VALUE(weight.dim() == 4, op, ": weight must have 4 dimensions (K, C, k, k), got ", weight.dim(),
                    " with shape ", weight.sizes());
  check_like(op, "weight", weight, like);
  check_kernel_size(op, weight.size(2), weight.size(3));
  TORCH_CHECK_VALUE(weight.size(0) > 0, op, ": weight must have at least one output channel, got shape ",
                    weight.sizes());
}

}  // namespace

at::Tensor max_unpool2d_conv2d_forward(const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                                       const std::optional<at::Tensor>& bias, int64_t height, int64_t width,
                                       bool relu) {
  const char* op = "max_unpool2d_conv2d";
  check_map(op, "input", input);
  const PoolShape pool = unpool_shape(op, input, height, width);
  check_codes(op, codes, input.device(), pool.batch, pool.channels, pool.pooled_height, pool.pooled_width);
  check_weight(op, weight, input);
  TORCH_CHECK_VALUE(weight.size(1) == pool.channels, op, ": weight must have as many input channels as input (",
                    pool.channels, "), got ", weight.size(1), " with shape ", weight.sizes());
  if (bias) {
    check_like(op, "bias", *bias, input);
    check_shape(op, "bias", *bias, {weight.size(0)}, "(K)");
  }

  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor output = empty_map({pool.batch, weight.size(0), height, width}, map.options());
  if (output.numel() > 0) {
    const Shape shape{pool.batch, pool.channels, pool.pooled_height, pool.pooled_width, weight.size(0),
                      height,     width,         weight.size(2)};
    SEGNET_DISPATCH(map, max_unpool2d_conv2d::forward, shape, map, codes, weight, bias, relu, output);
  }
  return output;
}

at::Tensor max_unpool2d_conv2d_grad_input(const at::Tensor& grad_output, const at::Tensor& codes,
                                          const at::Tensor& weight, int64_t pooled_height, int64_t pooled_width) {
  const char* op = "max_unpool2d_conv2d_grad_input";
  check_map(op, "grad_output", grad_output);
  check_weight(op, weight, grad_output);
  TORCH_CHECK_VALUE(weight.size(0) == grad_output.size(1), op,
                    ": weight must have as many output channels as grad_output (", grad_output.size(1), "), got ",
                    weight.size(0), " with shape ", weight.sizes());

  const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor grad_input = empty_map({grad.size(0), weight.size(1), pooled_height, pooled_width}, grad.options());
  const PoolShape pool = unpool_shape(op, grad_input, grad.size(2), grad.size(3));
  check_codes(op, codes, grad.device(), pool.batch, pool.channels, pooled_height, pooled_width);
  if (grad_input.numel() > 0) {
    const Shape shape{pool.batch,     pool.channels, pooled_height, pooled_width,
                      weight.size(0), pool.height,   pool.width,    weight.size(2)};
    SEGNET_DISPATCH(grad, max_unpool2d_conv2d::grad_input, shape, grad, codes, weight, grad_input);
  }
  return grad_input;
}

at::Tensor max_unpool2d_conv2d_grad_weight(const at::Tensor& grad_output, const at::Tensor& input,
                                           const at::Tensor& codes, int64_t kernel_size, bool channels_last) {
  const char* op = "max_unpool2d_conv2d_grad_weight";
  check_map(op, "input", input);
  check_map(op, "grad_output", grad_output);
  check_like(op, "grad_output", grad_output, input);
  check_kernel_size(op, kernel_size, kernel_size);
  const PoolShape pool = unpool_shape(op, input, grad_output.size(2), grad_output.size(3));
  TORCH_CHECK_VALUE(grad_output.size(0) == pool.batch, op, ": grad_output must have the batch size of input (",
                    pool.batch, "), got ", grad_output.size(0));
  check_codes(op, codes, input.device(), pool.batch, pool.channels, pool.pooled_height, pool.pooled_width);

  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  const Shape shape{pool.batch,   pool.channels, pool.pooled_height, pool.pooled_width,
                    grad.size(1), pool.height,   pool.width,         kernel_size};
  at::Tensor grad_weight = empty_large({shape.out_channels, shape.in_channels, kernel_size, kernel_size}, map.options(),
                                       weight_format(channels_last));
  if (grad.numel() == 0) {
    grad_weight.zero_();
  } else {
    SEGNET_DISPATCH(map, max_unpool2d_conv2d::grad_weight, shape, grad, map, codes, grad_weight);
  }
  return grad_weight.contiguous(weight_format(channels_last));
}

}  // namespace segnet_ext
