// The per-element mathematics of the operations, for scalars on the host and in CUDA.
#pragma once

#include "segnet_ext/macros.h"

namespace segnet_ext {
#include "segnet_ext/elementwise.inl"
}  // namespace segnet_ext
