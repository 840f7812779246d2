// The per-element mathematics of the operations, for scalars on the host and in CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#include "segnet_ext/macros.h"

namespace segnet_ext {
#include "segnet_ext/elementwise.inl"

// What is computed once a channel and so needs no SIMD.

template <class T>
SEGNET_HOST_DEVICE T batch_norm_invstd(T var, T eps) {
  return T(1) / std::sqrt(var + eps);
}

// From a to b by a share of the way, as torch.lerp.
template <class T>
SEGNET_HOST_DEVICE T lerp(T a, T b, T share) {
  return std::abs(share) < T(0.5) ? a + share * (b - a) : b - (b - a) * (T(1) - share);
}

}  // namespace segnet_ext
