#include "codes_to_indices/codes_to_indices_kernel.cuh"

#include "record.h"

namespace segnet_ext::record {

void run(const cuda::Launcher& launch) {
  auto* codes = static_cast<uint8_t*>(aligned());
  current_case = "64 channels";
  codes_to_indices_impl::launch(launch, {{1, 64, 360, 480, 180, 240}, codes, static_cast<int64_t*>(aligned())});
  current_case = "";
  codes_to_indices_impl::launch(launch, {{1, 3, 360, 480, 180, 240}, codes, static_cast<int64_t*>(misaligned())});
}

}  // namespace segnet_ext::record
