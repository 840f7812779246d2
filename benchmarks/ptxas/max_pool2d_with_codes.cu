#include "max_pool2d_with_codes/max_pool2d_with_codes_kernel.cuh"

#include <tuple>

#include "record.h"

namespace segnet_ext::record {

void run(const cuda::Launcher& launch) {
  for (const DType dtype : kDTypes) {
    for (const auto& [name, channels, map] : {std::tuple{"64 channels", 64, aligned()}, {"", 3, misaligned()}}) {
      current_case = name;
      const PoolShape shape{1, channels, 360, 480, 180, 240};
      auto* codes = static_cast<uint8_t*>(aligned());
      max_pool2d_with_codes::launch_forward(launch, dtype, {shape, map, map, codes});
      max_pool2d_with_codes::launch_backward(launch, dtype, {shape, map, codes, map});
      max_pool2d_with_codes::launch_gather(launch, dtype, {shape, map, codes, map});
    }
  }
}

}  // namespace segnet_ext::record
