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
      const bn_relu_max_pool2d::NormParams norm{values, values, values, values, 1e-5};
      launch_forward(launch, dtype, {shape.pixels(), channels, map, norm, map});
      BackwardParams grads{};
      grads.shape = shape;
      grads.grad_output = map;
      grads.input = map;
      grads.norm = norm;
      grads.parts = backward_parts(dtype, shape.pixels(), channels);
      grads.grad_input = map;
      bn_relu::launch_backward(launch, dtype, grads);  // the parameters are the pool's, and so would be the name
    }
  }
}

}  // namespace segnet_ext::record
