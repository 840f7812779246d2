#include "max_unpool2d_conv2d/max_unpool2d_conv2d_kernel.cuh"

#include "record.h"

namespace segnet_ext::record {

void run(const cuda::Launcher& launch) {
  using namespace max_unpool2d_conv2d;
  struct Case {
    const char* name;
    int64_t channels, kernel_size;
  };
  // The last kernel is too large for any tile in shared memory.
  for (const auto& [name, channels, kernel_size] :
       {Case{"3x3", 64, 3}, Case{"3x3", 128, 3}, Case{"7x7", 64, 7}, Case{"7x7", 128, 7}, Case{"", 8, 101}}) {
    const Shape shape{4, channels, 180, 240, channels, 360, 480, kernel_size};
    for (const DType dtype : kDTypes) {
      for (const bool allow_tf32 : {false, true}) {
        current_case = name;
        for (const Direction direction : {Direction::kForward, Direction::kGradInput}) {
          ConvArguments arguments{};
          launch_conv(launch, dtype, plan_conv(launch, dtype, allow_tf32, shape, direction), shape, direction,
                      arguments);
        }
        const GradWeightPlan plan = plan_grad_weight(launch, dtype, allow_tf32, shape);
        launch_grad_weight(launch, dtype, plan, shape, {});
      }
    }
  }
}

}  // namespace segnet_ext::record
