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

template <class T>
SEGNET_HOST_DEVICE BatchNormInverse<T> batch_norm_inverse(T mean, const BatchNormAffine<T>& affine) {
  return {affine(mean), T(1) / affine.scale};
}

// Is BatchNormInverse as good as x itself? y is rounded, and so is shift: not where they are large beside what x's
// standard deviation makes of y, as with a weight near zero, a mean far from it or next to no variance.
template <class T>
SEGNET_HOST_DEVICE bool inverts(const BatchNormAffine<T>& affine, const BatchNormInverse<T>& inverse, T var) {
  const T scale = std::abs(affine.scale), origin = std::abs(inverse.origin), shift = std::abs(affine.shift);
  const T most = T(16) * scale * std::sqrt(var);
  // Without branches, so that compilers make vectors of it.
  return (origin <= most) & (shift <= most) & (scale > T(1e-20)) & (scale < T(1e20));
}

// From a to b by a share of the way, as torch.lerp.
template <class T>
SEGNET_HOST_DEVICE T lerp(T a, T b, T share) {
  return std::abs(share) < T(0.5) ? a + share * (b - a) : b - (b - a) * (T(1) - share);
}

}  // namespace segnet_ext
