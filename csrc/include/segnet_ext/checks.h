// Argument checks. Each operation calls them once, at its entry; messages read `op: argument must be ..., got ...`.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "common/dispatch.h"
#include "segnet_ext/codes.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext {

inline DType to_dtype(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return DType::kFloat;
    case at::kDouble:
      return DType::kDouble;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kHalf;
    default:
      TORCH_CHECK_TYPE(false, "dtype must be float32, float64, bfloat16 or float16, got ", type);
  }
}

// The type that kernels accumulate in.
inline at::ScalarType acc_scalar_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

// A floating map [N, C, H, W] on a device with kernels, with at least one channel and one pixel; an empty batch is
// allowed.
inline void check_map(const char* op, const char* name, const at::Tensor& map) {
  TORCH_CHECK_VALUE(map.dim() == 4, op, ": ", name, " must have 4 dimensions (N, C, H, W), got ", map.dim(),
                    " with shape ", map.sizes());
  TORCH_CHECK_TYPE(map.scalar_type() == at::kFloat || map.scalar_type() == at::kDouble ||
                       map.scalar_type() == at::kBFloat16 || map.scalar_type() == at::kHalf,
                   op, ": ", name, " must be float32, float64, bfloat16 or float16, got ", map.scalar_type());
  TORCH_CHECK(has_kernels_for(map), op, ": ", name, " must be on a device that this build has kernels for (",
              kDevicesText, "), got ", map.device());
  TORCH_CHECK_VALUE(map.size(1) > 0 && map.size(2) > 0 && map.size(3) > 0, op, ": ", name,
                    " must have at least one channel, row and column, got shape ", map.sizes());
}

inline void check_like(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  TORCH_CHECK(tensor.device() == input.device(), op, ": ", name, " must be on the device of input (", input.device(),
              "), got ", tensor.device());
  TORCH_CHECK_TYPE(tensor.scalar_type() == input.scalar_type(), op, ": ", name, " must have the dtype of input (",
                   input.scalar_type(), "), got ", tensor.scalar_type());
}

inline void check_shape(const char* op, const char* name, const at::Tensor& tensor, at::IntArrayRef shape,
                        const char* meaning) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, op, ": ", name, " must have shape ", shape, " ", meaning, ", got ",
                    tensor.sizes());
}

// Codes of a pooled map [N, C, OH, OW].
inline void check_codes(const char* op, const at::Tensor& codes, const at::Device& device, int64_t batch,
                        int64_t channels, int64_t pooled_height, int64_t pooled_width) {
  TORCH_CHECK_TYPE(codes.scalar_type() == at::kByte, op, ": codes must be uint8, got ", codes.scalar_type());
  TORCH_CHECK(codes.device() == device, op, ": codes must be on the device of the other arguments (", device, "), got ",
              codes.device());
  check_shape(op, "codes", codes, {batch, pooled_height, pooled_width, codes_bytes(channels)},
              "(N, OH, OW, ceil(C / 4))");
  TORCH_CHECK_VALUE(codes.is_contiguous(), op, ": codes must be contiguous, got strides ", codes.strides());
}

}  // namespace segnet_ext
