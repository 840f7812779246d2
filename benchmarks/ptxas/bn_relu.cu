#include "bn_relu/bn_relu_kernel.cuh"

#include <tuple>

#include "record.h"

namespace segnet_ext::record {

void run(const cuda::Launcher& launch) {
  using namespace bn_relu;
  for (const DType dtype : kDTypes) {
    for (const auto& [name, channels, map] : {std::tuple{"64 channels", 64, aligned()}, {"", 3, misaligned()}}) {
      current_case = name;
      const PoolShape shape{1, channels, 360, 480, 0, 0};
      void* const values = aligned();
      launch_forward(launch, dtype, {shape.pixels(), channels, map, values, values, map});
      MergeGradsParams grads{};
      grads.backward.shape = shape;
      grads.backward.grad_output = map;
      grads.backward.input = map;
      grads.backward.parts = backward_parts(dtype, shape.pixels(), channels);
      grads.backward.grad_input = map;
      bn_relu::launch_backward(launch, dtype, grads);  // the parameters are the pool's, and so would be the name
    }
  }
}

}  // namespace segnet_ext::record
