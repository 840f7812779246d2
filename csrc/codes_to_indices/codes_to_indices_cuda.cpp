#include "codes_to_indices/codes_to_indices.h"
#include "codes_to_indices/codes_to_indices_launch.h"
#include "common/cuda_context.h"

namespace segnet_ext::codes_to_indices_impl {

void run_cuda(const at::Tensor& codes, at::IntArrayRef input_size, at::Tensor& indices) {
  CudaContext context(codes);
  const PoolShape shape{input_size[0], input_size[1], input_size[2], input_size[3], codes.size(1), codes.size(2)};
  launch(context.launcher(), {shape, static_cast<const uint8_t*>(context.read(codes, "codes")),
                              static_cast<int64_t*>(context.write(indices, "indices"))});
}

}  // namespace segnet_ext::codes_to_indices_impl
