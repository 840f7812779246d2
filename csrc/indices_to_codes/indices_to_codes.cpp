#include "indices_to_codes/indices_to_codes.h"

#include <ATen/ops/empty.h>

#include "common/dispatch.h"
#include "common/pool_shape.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {

at::Tensor indices_to_codes(const at::Tensor& indices, at::IntArrayRef input_size) {
  const char* op = "indices_to_codes";
  TORCH_CHECK_VALUE(indices.dim() == 4, op, ": indices must have 4 dimensions (N, C, OH, OW), got ", indices.dim(),
                    " with shape ", indices.sizes());
  TORCH_CHECK_TYPE(indices.scalar_type() == at::kLong, op, ": indices must be int64, got ", indices.scalar_type());
  TORCH_CHECK(has_kernels_for(indices), op, ": indices must be on a device that this build has kernels for (",
              kDevicesText, "), got ", indices.device());
  TORCH_CHECK_VALUE(input_size.size() == 2 || input_size.size() == 4, op,
                    ": input_size must be (H, W) or (N, C, H, W), got ", input_size);
  const int64_t height = input_size[input_size.size() - 2], width = input_size[input_size.size() - 1];
  const bool same_planes = input_size.size() == 2 || input_size.slice(0, 2) == indices.sizes().slice(0, 2);
  TORCH_CHECK_VALUE(
      indices.size(1) > 0 && same_planes && fits_pool(indices.size(2), height) && fits_pool(indices.size(3), width), op,
      ": input_size must be that of the map whose pool gave indices of shape ", indices.sizes(), ", got ", input_size);

  const at::Tensor map = indices.contiguous(at::MemoryFormat::ChannelsLast);
  at::Tensor codes =
      at::empty({map.size(0), map.size(2), map.size(3), codes_bytes(map.size(1))}, map.options().dtype(at::kByte));
  if (codes.numel() > 0) {
    const bool valid = SEGNET_DISPATCH(map, indices_to_codes_impl::run, map, height, width, codes);
    TORCH_CHECK_VALUE(valid, op, ": indices must lie in their own 2x2 windows of a map of ", height, "x", width,
                      ", got one that does not");
  }
  return codes;
}

}  // namespace segnet_ext
