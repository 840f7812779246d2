#include "codes_to_indices/codes_to_indices.h"
#include "codes_to_indices/codes_to_indices_cpu_kernel.h"
#include "common/parallel.h"

namespace segnet_ext::codes_to_indices_impl {

void run_cpu(const at::Tensor& codes, at::IntArrayRef input_size, at::Tensor& indices) {
  const PoolShape shape{input_size[0], input_size[1], input_size[2], input_size[3], codes.size(1), codes.size(2)};
  const auto* from = codes.const_data_ptr<uint8_t>();
  auto* to = indices.mutable_data_ptr<int64_t>();
  parallel_tasks(shape.pooled_rows(), shape.pooled_width * shape.channels,
                 [&](int64_t begin, int64_t end) { run(shape, from, to, begin, end); });
}

}  // namespace segnet_ext::codes_to_indices_impl
