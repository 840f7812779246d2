#include "common/cuda_context.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_launch.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::max_pool2d_with_codes {

void forward_cuda(const PoolShape& shape, const at::Tensor& input, at::Tensor& output, at::Tensor& codes) {
  CudaContext context(input);
  launch_forward(context.launcher(), to_dtype(input.scalar_type()),
                 {shape, context.read(input, "input"), context.write(output, "output"),
                  static_cast<uint8_t*>(context.write(codes, "codes"))});
}

void backward_cuda(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                   at::Tensor& grad_input) {
  CudaContext context(grad_output);
  launch_backward(context.launcher(), to_dtype(grad_output.scalar_type()),
                  {shape, context.read(grad_output, "grad_output"),
                   static_cast<const uint8_t*>(context.read(codes, "codes")), context.write(grad_input, "grad_input")});
}

void gather_cuda(const PoolShape& shape, const at::Tensor& map, const at::Tensor& codes, at::Tensor& output) {
  CudaContext context(map);
  launch_gather(context.launcher(), to_dtype(map.scalar_type()),
                {shape, context.read(map, "map"), static_cast<const uint8_t*>(context.read(codes, "codes")),
                 context.write(output, "output")});
}

}  // namespace segnet_ext::max_pool2d_with_codes
