// The element types that the kernels know, without torch: storage types for the half formats, and the type each one is
// computed in.
#pragma once

#include <cstdint>

namespace segnet_ext {

enum class DType { kFloat, kDouble, kBFloat16, kHalf };

struct bfloat16 {
  uint16_t bits;
};
struct half {
  uint16_t bits;
};

template <class scalar_t>
struct AccumulateType {
  using type = float;
};
template <>
struct AccumulateType<double> {
  using type = double;
};
template <class scalar_t>
using acc_type = typename AccumulateType<scalar_t>::type;

}  // namespace segnet_ext
