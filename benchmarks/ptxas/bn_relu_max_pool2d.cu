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
      launch_affine(launch, dtype, {channels, 1e-5, values, values, values, values, values, values, values});
      launch_forward(launch, dtype, {shape, map, values, values, map, codes});
      MergeGradsParams grads{};
      grads.backward.shape = shape;
      grads.backward.grad_output = map;
      grads.backward.input = map;
      grads.backward.codes = codes;
      grads.backward.parts = backward_parts(dtype, shape);
      grads.backward.grad_input = map;
      launch_backward(launch, dtype, grads);
    }
  }
}

}  // namespace segnet_ext::record
