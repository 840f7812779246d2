#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "bn_relu/bn_relu.h"
#include "bn_relu_conv2d/bn_relu_conv2d.h"
#include "common/convolution.h"
#include "conv_bias/conv_bias.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"

namespace segnet_ext::bn_relu_conv2d {
namespace {

using bn_relu_max_pool2d::Norm;
using max_pool2d_with_codes::empty_output;

// What is convolved, or unpooled and convolved: the map itself, or normalised and rectified.
at::Tensor operand(const at::Tensor& input, const std::optional<Norm>& norm) {
  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  if (!norm) {
    return map;
  }
  at::Tensor rectified = empty_output(map, map.size(2), map.size(3));
  bn_relu::forward_cuda(map, *norm, rectified);
  return rectified;
}

}  // namespace

at::Tensor forward_cuda(const at::Tensor& input, const std::optional<Norm>& norm,
                        const std::optional<at::Tensor>& codes, int64_t height, int64_t width, const at::Tensor& weight,
                        const std::optional<at::Tensor>& bias, bool relu) {
  const at::Tensor map = operand(input, norm);
  if (codes) {
    return max_unpool2d_conv2d_forward(map, *codes, weight, bias, height, width, relu);
  }
  return conv_bias::convolve_cuda(map, weight, bias ? std::optional(bias->contiguous()) : bias, relu);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> grad_input_cuda(const at::Tensor& grad_output, const at::Tensor& input,
                                                               const std::optional<Norm>& norm, bool batch_statistics,
                                                               const std::optional<at::Tensor>& codes,
                                                               const at::Tensor& weight) {
  const at::Tensor grad =
      codes ? max_unpool2d_conv2d_grad_input(grad_output, *codes, weight, input.size(2), input.size(3))
            : convolve_grad_map(grad_output.contiguous(at::MemoryFormat::ChannelsLast), weight);
  if (!norm) {
    return {grad, at::empty({0}, input.options()), at::empty({0}, input.options())};
  }
  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor grad_input = empty_output(map, map.size(2), map.size(3));
  at::Tensor grad_weight = at::empty_like(norm->mean), grad_bias = at::empty_like(norm->mean);
  bn_relu::backward_cuda(grad, map, *norm, batch_statistics, grad_input, grad_weight, grad_bias);
  return {grad_input, grad_weight, grad_bias};
}

at::Tensor grad_weight_cuda(const at::Tensor& grad_output, const at::Tensor& input, const std::optional<Norm>& norm,
                            const std::optional<at::Tensor>& codes, int64_t kernel_size, bool channels_last) {
  const at::Tensor map = operand(input, norm);
  if (codes) {
    return max_unpool2d_conv2d_grad_weight(grad_output, map, *codes, kernel_size, channels_last);
  }
  return convolve_grad_weight(grad_output.contiguous(at::MemoryFormat::ChannelsLast), map, kernel_size)
      .contiguous(weight_format(channels_last));
}

}  // namespace segnet_ext::bn_relu_conv2d
