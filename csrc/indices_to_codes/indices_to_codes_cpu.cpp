#include <atomic>

#include "common/parallel.h"
#include "indices_to_codes/indices_to_codes.h"
#include "indices_to_codes/indices_to_codes_cpu_kernel.h"

namespace segnet_ext::indices_to_codes_impl {

bool run_cpu(const at::Tensor& indices, int64_t height, int64_t width, at::Tensor& codes) {
  const PoolShape shape{indices.size(0), indices.size(1), height, width, indices.size(2), indices.size(3)};
  const auto* from = indices.const_data_ptr<int64_t>();
  auto* to = codes.mutable_data_ptr<uint8_t>();
  std::atomic<bool> valid{true};
  parallel_tasks(shape.pooled_rows(), shape.pooled_width * shape.channels, [&](int64_t begin, int64_t end) {
    if (!run(shape, from, to, begin, end)) {
      valid = false;
    }
  });
  return valid;
}

}  // namespace segnet_ext::indices_to_codes_impl
