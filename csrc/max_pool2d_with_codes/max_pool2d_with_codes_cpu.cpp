#include "common/parallel.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_cpu_kernel.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::max_pool2d_with_codes {

void forward_cpu(const PoolShape& shape, const at::Tensor& input, at::Tensor& output, at::Tensor& codes) {
  const DType dtype = to_dtype(input.scalar_type());
  const ForwardParams params{shape, input.const_data_ptr(), output.mutable_data_ptr(),
                             codes.mutable_data_ptr<uint8_t>()};
  parallel_tasks(shape.pooled_rows(), 2 * shape.width * shape.channels,
                 [&](int64_t begin, int64_t end) { forward(dtype, params, begin, end); });
}

void backward_cpu(const PoolShape& shape, const at::Tensor& grad_output, const at::Tensor& codes,
                  at::Tensor& grad_input) {
  const DType dtype = to_dtype(grad_output.scalar_type());
  const BackwardParams params{shape, grad_output.const_data_ptr(), codes.const_data_ptr<uint8_t>(),
                              grad_input.mutable_data_ptr()};
  parallel_tasks(shape.pooled_rows(), 2 * shape.width * shape.channels,
                 [&](int64_t begin, int64_t end) { backward(dtype, params, begin, end); });
}

}  // namespace segnet_ext::max_pool2d_with_codes
