#include "conv_bias/conv_bias_kernel.cuh"

#include <tuple>

#include "record.h"

namespace segnet_ext::record {

void run(const cuda::Launcher& launch) {
  using namespace conv_bias;
  constexpr int64_t kPixels = 360 * 480;
  for (const DType dtype : kDTypes) {
    for (const auto& [name, channels, map] : {std::tuple{"64 channels", 64, aligned()}, {"", 3, misaligned()}}) {
      current_case = name;
      launch_add(launch, dtype, {kPixels, channels, aligned(), true, map, map});
      launch_grad(launch, dtype, {kPixels, channels, grad_parts(dtype, kPixels, channels), map, aligned(), aligned()});
    }
  }
}

}  // namespace segnet_ext::record
