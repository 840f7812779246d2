#include "bn_relu_max_pool2d/bn_relu_max_pool2d_kernel.cuh"

#include <tuple>

#include "record.h"

namespace segnet_ext::record {

void run(const cuda::Launcher& launch) {
  using namespace bn_relu_max_pool2d;
  for (const DType dtype : kDTypes) {
    for (const auto& [name, channels, map] : {std::tuple{"64 channels", 64, aligned()}, {"", 3, misaligned()}}) {
      current_case = name;
      const PoolShape shape{1, channels, 360, 480, 180, 240};
      void* const values = aligned();
      auto* codes = static_cast<uint8_t*>(aligned());
      const int64_t parts = stats_parts(dtype, shape.pixels(), channels);
      launch_stats(launch, dtype, {shape.pixels(), channels, map, parts, values, values, values, values});
      launch_running_stats(launch, dtype, {channels, 0.1, 1, values, values, values, values, values, values});
      const NormParams norm{values, values, values, values, 1e-5};
      launch_forward(launch, dtype, NormedForwardParams{shape, map, norm, map, codes});
      NormedBackwardParams grads{};
      grads.shape = shape;
      grads.grad_output = map;
      grads.input = map;
      grads.codes = codes;
      grads.norm = norm;
      grads.parts = backward_parts(dtype, shape);
      grads.grad_input = map;
      launch_backward(launch, dtype, grads);
    }
  }
}

}  // namespace segnet_ext::record
