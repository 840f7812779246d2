// From run-time values to the kernels compiled for them.
#pragma once

#include <type_traits>

#include "segnet_ext/dtypes.h"

namespace segnet_ext::cuda {

// Calls body(element) with a value of the element type that `dtype` stands for.
template <class Body>
void call_for_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat:
      return body(float{});
    case DType::kDouble:
      return body(double{});
    case DType::kBFloat16:
      return body(bfloat16{});
    case DType::kHalf:
      return body(half{});
  }
}

// Calls body(flag) with std::true_type or std::false_type.
template <class Body>
void call_for_bool(bool value, const Body& body) {
  value ? body(std::true_type{}) : body(std::false_type{});
}

}  // namespace segnet_ext::cuda
