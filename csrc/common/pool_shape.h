// Sizes of a 2x2, stride-2 pool over a channels_last map.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace segnet_ext {

struct PoolShape {
  int64_t batch, channels, height, width, pooled_height, pooled_width;

  int64_t pooled_rows() const { return batch * pooled_height; }
  int64_t pixels() const { return batch * height * width; }
};

// Can a 2x2, stride-2 pool of `size` rows or columns have given `pooled`, in floor or in ceil mode?
inline bool fits_pool(int64_t pooled, int64_t size) {
  return pooled > 0 && size > 0 && std::abs(size - 2 * pooled) <= 1;
}

}  // namespace segnet_ext
