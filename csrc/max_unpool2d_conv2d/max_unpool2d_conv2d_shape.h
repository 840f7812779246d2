// Sizes of a max unpool followed by a stride-1 convolution that keeps the size.
#pragma once

#include <cstdint>

#include "segnet_ext/macros.h"

namespace segnet_ext::max_unpool2d_conv2d {

struct Shape {
  int64_t batch, in_channels, pooled_height, pooled_width;
  int64_t out_channels, height, width;
  int64_t kernel_size;  // odd; padding is kernel_size / 2

  SEGNET_HOST_DEVICE int64_t radius() const { return kernel_size / 2; }
  SEGNET_HOST_DEVICE int64_t taps() const { return kernel_size * kernel_size; }
};

}  // namespace segnet_ext::max_unpool2d_conv2d
