#include "indices_to_codes/indices_to_codes_kernel.cuh"

#include "record.h"

namespace segnet_ext::record {

void run(const cuda::Launcher& launch) {
  auto* codes = static_cast<uint8_t*>(aligned());
  auto* outside = static_cast<int*>(aligned());
  current_case = "64 channels";
  indices_to_codes_impl::launch(launch,
                                {{1, 64, 360, 480, 180, 240}, static_cast<int64_t*>(aligned()), codes, outside});
  current_case = "";
  indices_to_codes_impl::launch(launch,
                                {{1, 3, 360, 480, 180, 240}, static_cast<int64_t*>(misaligned()), codes, outside});
}

}  // namespace segnet_ext::record
