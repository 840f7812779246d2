#include "max_pool2d_with_codes/max_pool2d_with_codes.h"

#include <ATen/ops/empty.h>

#include "common/dispatch.h"
#include "common/map_memory.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {
namespace max_pool2d_with_codes {

PoolShape pool_shape(const char* op, const at::Tensor& input, bool ceil_mode) {
  const PoolShape shape{input.size(0),
                        input.size(1),
                        input.size(2),
                        input.size(3),
                        pooled_size(input.size(2), ceil_mode),
                        pooled_size(input.size(3), ceil_mode)};
  TORCH_CHECK_VALUE(shape.pooled_height > 0 && shape.pooled_width > 0, op,
                    ": input must have at least two rows and two columns unless ceil_mode is set, got shape ",
                    input.sizes());
  return shape;
}

PoolShape unpool_shape(const char* op, const at::Tensor& pooled, int64_t height, int64_t width) {
  const PoolShape shape{pooled.size(0), pooled.size(1), height, width, pooled.size(2), pooled.size(3)};
  TORCH_CHECK_VALUE(fits_pool(shape.pooled_height, height) && fits_pool(shape.pooled_width, width), op,
                    ": output_size must be within one of twice the pooled size, (", 2 * shape.pooled_height, ", ",
                    2 * shape.pooled_width, "), got (", height, ", ", width, ")");
  return shape;
}

at::Tensor empty_output(const at::Tensor& input, int64_t height, int64_t width) {
  return empty_map({input.size(0), input.size(1), height, width}, input.options());
}

at::Tensor empty_codes(const at::Tensor& input, const PoolShape& shape) {
  return at::empty({shape.batch, shape.pooled_height, shape.pooled_width, codes_bytes(shape.channels)},
                   input.options().dtype(at::kByte));
}

}  // namespace max_pool2d_with_codes

using namespace max_pool2d_with_codes;

std::tuple<at::Tensor, at::Tensor> max_pool2d_with_codes_forward(const at::Tensor& input, bool ceil_mode) {
  const char* op = "max_pool2d_with_codes";
  check_map(op, "input", input);
  const PoolShape shape = pool_shape(op, input, ceil_mode);

  const at::Tensor map = input.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor output = empty_output(map, shape.pooled_height, shape.pooled_width);
  at::Tensor codes = empty_codes(map, shape);
  if (output.numel() > 0) {
    SEGNET_DISPATCH(map, forward, shape, map, output, codes);
  }
  return {output, codes};
}

at::Tensor max_pool2d_with_codes_backward(const at::Tensor& grad_output, const at::Tensor& codes, int64_t height,
                                          int64_t width) {
  const char* op = "max_pool2d_with_codes_backward";
  check_map(op, "grad_output", grad_output);
  const PoolShape shape = unpool_shape(op, grad_output, height, width);
  check_codes(op, codes, grad_output.device(), shape.batch, shape.channels, shape.pooled_height, shape.pooled_width);

  const at::Tensor grad = grad_output.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor grad_input = empty_output(grad, height, width);
  if (grad_input.numel() > 0) {
    SEGNET_DISPATCH(grad, backward, shape, grad, codes, grad_input);
  }
  return grad_input;
}

}  // namespace segnet_ext
