#include "codes_to_indices/codes_to_indices.h"

#include <ATen/ops/empty.h>

#include "common/dispatch.h"
#include "common/pool_shape.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {

at::Tensor codes_to_indices(const at::Tensor& codes, at::IntArrayRef input_size) {
  const char* op = "codes_to_indices";
  TORCH_CHECK_VALUE(input_size.size() == 4, op, ": input_size must be (N, C, H, W), got ", input_size);
  TORCH_CHECK_VALUE(codes.dim() == 4, op, ": codes must have 4 dimensions (N, OH, OW, ceil(C / 4)), got ", codes.dim(),
                    " with shape ", codes.sizes());
  const int64_t batch = input_size[0], channels = input_size[1], height = input_size[2], width = input_size[3];
  TORCH_CHECK_VALUE(batch >= 0 && channels > 0 && fits_pool(codes.size(1), height) && fits_pool(codes.size(2), width),
                    op, ": input_size must be the (N, C, H, W) of the map whose pool gave codes of shape ",
                    codes.sizes(), ", got ", input_size);
  TORCH_CHECK(has_kernels_for(codes), op, ": codes must be on a device that this build has kernels for (", kDevicesText,
              "), got ", codes.device());
  check_codes(op, codes, codes.device(), batch, channels, codes.size(1), codes.size(2));

  at::Tensor indices = at::empty({batch, channels, codes.size(1), codes.size(2)},
                                 codes.options().dtype(at::kLong).memory_format(at::MemoryFormat::ChannelsLast));
  if (indices.numel() > 0) {
    SEGNET_DISPATCH(codes, codes_to_indices_impl::run, codes, input_size, indices);
  }
  return indices;
}

}  // namespace segnet_ext
