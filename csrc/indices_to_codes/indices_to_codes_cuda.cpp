#include <ATen/ops/empty.h>

#include "common/cuda_context.h"
#include "indices_to_codes/indices_to_codes.h"
#include "indices_to_codes/indices_to_codes_launch.h"

namespace segnet_ext::indices_to_codes_impl {

bool run_cuda(const at::Tensor& indices, int64_t height, int64_t width, at::Tensor& codes) {
  CudaContext context(indices);
  const PoolShape shape{indices.size(0), indices.size(1), height, width, indices.size(2), indices.size(3)};
  const at::Tensor outside =
      at::empty({1}, indices.options().dtype(at::kInt).memory_format(at::MemoryFormat::Contiguous));
  launch(context.launcher(),
         {shape, static_cast<const int64_t*>(context.read(indices, "indices")),
          static_cast<uint8_t*>(context.write(codes, "codes")), static_cast<int*>(context.write(outside, "outside"))});
  return outside.item().toInt() == 0;  // waits for the device: the answer decides whether to raise
}

}  // namespace segnet_ext::indices_to_codes_impl
