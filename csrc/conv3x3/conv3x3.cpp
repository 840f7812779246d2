#include "conv3x3/conv3x3.h"

#include <ATen/Parallel.h>

#include "common/map_memory.h"
#include "common/parallel.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::conv3x3 {

bool suits(int64_t kernel_size, int64_t in_channels, int64_t out_channels) {
  return kernel_size == 3 && in_channels >= 16 && out_channels >= 8;
}

at::Tensor dense_weight(const at::Tensor& weight) {
  return weight.is_contiguous(at::MemoryFormat::ChannelsLast) ? weight : weight.contiguous();
}

Weight forward_weight(const at::Tensor& weight) {
  const int64_t channels = weight.size(1);
  return weight.is_contiguous() ? Weight{weight.const_data_ptr(), channels * 9, 9, 1, /*flip=*/false}
                                : Weight{weight.const_data_ptr(), channels * 9, 1, channels, /*flip=*/false};
}
Weight transposed_weight(const at::Tensor& weight) {
  const Weight forward = forward_weight(weight);
  return {forward.data, forward.c_stride, forward.k_stride, forward.tap_stride, /*flip=*/true};
}

void run_forward(at::ScalarType dtype, const ForwardParams& params) {
  const DType type = to_dtype(dtype);
  const int threads = at::get_num_threads();
  const Tasks tasks = forward_tasks(type, params.shape, threads);
  ForwardParams shared = params;
  at::Tensor points, patches;
  if (const int64_t bytes = forward_points_bytes(type, params.shape, tasks); bytes > 0) {
    points = empty_large({bytes}, at::kByte, at::MemoryFormat::Contiguous);
    shared.points = points.mutable_data_ptr();
    at::parallel_for(0, (params.shape.out_channels + kPointChannels - 1) / kPointChannels, 1,
                     [&](int64_t begin, int64_t end) { forward_points(type, shared, begin, end); });
  }
  if (const int64_t bytes = forward_patches_bytes(type, params.shape, tasks, threads); bytes > 0) {
    patches = empty_large({bytes}, at::kByte, at::MemoryFormat::Contiguous);
    shared.patches = patches.mutable_data_ptr();
    at::parallel_for(0, params.shape.tiles(forward_tile(type)), 1,
                     [&](int64_t begin, int64_t end) { forward_patches(type, shared, begin, end); });
  }
  parallel_workers(tasks.count(), [&](Worker& worker) { forward(type, shared, tasks, worker); });
}

void run_grad_input(const at::Tensor& grad_output, const at::Tensor& weight, const uint8_t* codes,
                    at::Tensor& grad_input) {
  ForwardParams params{};
  params.shape = {grad_output.size(0), grad_output.size(1), grad_input.size(1), grad_output.size(2),
                  grad_output.size(3)};
  params.source.map = grad_output.const_data_ptr();
  const at::Tensor dense = dense_weight(weight);
  params.weight = transposed_weight(dense);
  params.result = codes == nullptr ? Result::kMap : Result::kWinners;
  params.output = grad_input.mutable_data_ptr();
  params.codes = codes;
  params.pooled_height = grad_input.size(2);
  params.pooled_width = grad_input.size(3);
  run_forward(grad_output.scalar_type(), params);
}

void run_grad_weight(const Shape& shape, const Source& source, const at::Tensor& grad_output, at::Tensor& grad_weight) {
  const DType dtype = to_dtype(grad_output.scalar_type());
  const int64_t parts = grad_weight_parts(shape), blocks = grad_weight_blocks(shape);
  at::Tensor sums;
  if (parts > 1) {
    sums = empty_large({parts * blocks, grad_weight_sums_size(shape)},
                       grad_output.options().dtype(acc_scalar_type(grad_output.scalar_type())),
                       at::MemoryFormat::Contiguous);
  }
  const GradWeightParams params{shape,
                                source,
                                grad_output.const_data_ptr(),
                                parts,
                                sums.defined() ? sums.mutable_data_ptr() : nullptr,
                                grad_weight.mutable_data_ptr(),
                                !grad_weight.is_contiguous()};
  parallel_workers(parts * blocks, [&](Worker& worker) { grad_weight_sums(dtype, params, worker); });
  if (parts > 1) {
    at::parallel_for(0, shape.out_channels, 1,
                     [&](int64_t begin, int64_t end) { grad_weight_taps(dtype, params, begin, end); });
  }
}

}  // namespace segnet_ext::conv3x3
