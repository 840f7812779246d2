#include "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_kernel.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>

#include "common/line_array.h"
#include "segnet_ext/codes.h"
#include "simd/dispatch.h"

namespace segnet_ext {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// How the work is cut into tasks. None of it depends on the SIMD level or on the number of threads.
constexpr int64_t kTileRows = 8, kTileCols = 8;  // windows of a forward tile
constexpr int64_t kWindowsInFlight = 8;          // windows of a grad_input task, whose dot products share weights
constexpr int64_t kGradTileRows = 4, kGradTileCols = 8;  // windows of a grad_weight tile
constexpr int64_t kGradChannels = 16;                    // input channels of a grad_weight task
constexpr int64_t kBiasChannels = 64;                    // output channels of a grad_bias task

}  // namespace
}  // namespace segnet_ext

#define SEGNET_SIMD_FILE "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::max_unpool2d_conv2d {
namespace {

void forward_blocks(DType dtype, const Shape& shape, ChannelBlocks& blocks) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::ForwardBlocks, dtype, shape, blocks);
}
void grad_input_blocks(DType dtype, const Shape& shape, ChannelBlocks& blocks) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::GradInputBlocks, dtype, shape, blocks);
}
void grad_weight_blocks(DType dtype, const Shape& shape, ChannelBlocks& blocks) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::GradWeightBlocks, dtype, shape, blocks);
}

}  // namespace

ChannelBlocks forward_blocks(DType dtype, const Shape& shape) {
  ChannelBlocks blocks{};
  forward_blocks(dtype, shape, blocks);
  return blocks;
}

ChannelBlocks grad_input_blocks(DType dtype, const Shape& shape) {
  ChannelBlocks blocks{};
  grad_input_blocks(dtype, shape, blocks);
  return blocks;
}

ChannelBlocks grad_weight_blocks(DType dtype, const Shape& shape) {
  ChannelBlocks blocks{};
  grad_weight_blocks(dtype, shape, blocks);
  return blocks;
}

void pack_weight(DType dtype, const Shape& shape, const ChannelBlocks& blocks, bool flip, const void* weight,
                 void* packed) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::PackWeight, dtype, shape, blocks, flip, weight, packed);
}

int64_t forward_tasks(const Shape& shape) {
  return shape.batch * ceil_div(shape.pooled_height, kTileRows) * ceil_div(shape.pooled_width, kTileCols);
}

void forward(DType dtype, const ForwardParams& params, int64_t begin_task, int64_t end_task) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::Forward, dtype, params, begin_task, end_task);
}

int64_t grad_input_tasks(const Shape& shape) {
  return shape.batch * shape.pooled_height * ceil_div(shape.pooled_width, kWindowsInFlight);
}

void grad_input(DType dtype, const GradInputParams& params, int64_t begin_task, int64_t end_task) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::GradInput, dtype, params, begin_task, end_task);
}

int64_t grad_weight_tasks(const Shape& shape, const ChannelBlocks& blocks) {
  return ceil_div(shape.in_channels, kGradChannels) * blocks.count;
}

void grad_weight(DType dtype, const GradWeightParams& params, int64_t begin_task, int64_t end_task) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::GradWeight, dtype, params, begin_task, end_task);
}

int64_t grad_bias_tasks(const Shape& shape) {
  return ceil_div(shape.out_channels, kBiasChannels);
}

void grad_bias(DType dtype, const GradBiasParams& params, int64_t begin_task, int64_t end_task) {
  SEGNET_CALL_AT_LEVEL(max_unpool2d_conv2d::GradBias, dtype, params, begin_task, end_task);
}

}  // namespace segnet_ext::max_unpool2d_conv2d
