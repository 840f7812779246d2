#include "conv3x3/conv3x3_cpu_kernel.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "common/line_array.h"
#include "common/pool_shape.h"
#include "common/streaming.h"
#include "segnet_ext/codes.h"
#include "simd/dispatch.h"

namespace segnet_ext {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The distance between matrices or rows of `size` elements that are read or written in turn: an odd number of cache
// lines, since a power of two apart they would compete for a few places of the cache.
template <class acc_t>
int64_t stride_of(int64_t size) {
  constexpr int64_t kLine = kLineBytes / sizeof(acc_t);
  return (ceil_div(size, kLine) | 1) * kLine;
}

// The weights at the points are made once for all tasks where they take so little: larger ones would add to the memory
// of a pass, and at 256 channels are only worth 3 % of the time.
constexpr int64_t kMaxPointsBytes = int64_t(4) << 20;

// How much is worked on at a time.
constexpr int64_t kTaskTiles = 36;        // of 6x6; of 4x4, twice as many
constexpr int64_t kOwnTaskTiles = 48;     // the same where a task transforms its own weights: they serve more tiles
constexpr int64_t kThreadTasks = 8;       // of a thread's share at least, where threads help each other out
constexpr int64_t kGradTiles = 32;        // tiles of a gradient of the weights: kGradBlock rows of them stay in L1
constexpr int64_t kWeightChannels = 128;  // input channels of weights that are transformed at a time: they stay in L2

static_assert(conv3x3::kDirectPixels <= kGradTiles && conv3x3::kDirectPixels <= kTaskTiles,
              "a map that is convolved directly is worked on as a whole");

// Of the matrix that Planes has for a point.
template <class acc_t>
int64_t plane_size(int64_t rows, int64_t columns) {
  return stride_of<acc_t>(rows * stride_of<acc_t>(columns));
}
int64_t plane_bytes(DType dtype, int64_t rows, int64_t columns) {
  return dtype == DType::kDouble ? plane_size<double>(rows, columns) * static_cast<int64_t>(sizeof(double))
                                 : plane_size<float>(rows, columns) * static_cast<int64_t>(sizeof(float));
}

// Of all weights at the points.
int64_t points_bytes(DType dtype, const conv3x3::Shape& shape) {
  const int64_t side = conv3x3::forward_tile(dtype) + 2, block = shape.in_channels * conv3x3::kPointChannels;
  return ceil_div(shape.out_channels, conv3x3::kPointChannels) * side * side * plane_bytes(dtype, 1, block);
}

}  // namespace
}  // namespace segnet_ext

#define SEGNET_SIMD_FILE "conv3x3/conv3x3_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::conv3x3 {

Tasks forward_tasks(DType dtype, const Shape& shape, int64_t threads) {
  const int64_t wanted = threads == 1 ? 1 : kThreadTasks * threads;
  const int64_t side = forward_tile(dtype);
  const int64_t task_tiles =
      (points_bytes(dtype, shape) <= kMaxPointsBytes ? kTaskTiles : kOwnTaskTiles) * (side == 6 ? 1 : 2);
  // As many for each thread, unless there are few tiles.
  const int64_t blocks = ceil_div(shape.tiles(side), task_tiles);
  Tasks tasks{blocks < threads ? blocks : ceil_div(blocks, threads) * threads, 1};
  while (tasks.count() < wanted && 2 * tasks.channel_blocks <= ceil_div(shape.out_channels, kPointChannels)) {
    tasks.channel_blocks *= 2;
  }
  return tasks;
}

int64_t forward_points_bytes(DType dtype, const Shape& shape, const Tasks& tasks) {
  const int64_t bytes = points_bytes(dtype, shape);
  return shape.direct() || tasks.tile_blocks == 1 || bytes > kMaxPointsBytes ? 0 : bytes;
}

void forward_points(DType dtype, const ForwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(conv3x3::ForwardPoints, dtype, params, begin, end);
}

int64_t forward_patches_bytes(DType dtype, const Shape& shape, const Tasks& tasks, int64_t threads) {
  const bool shared = tasks.tile_blocks < threads && tasks.channel_blocks > 1 && !shape.direct();
  const int64_t tile = forward_tile(dtype), side = tile + 2;
  return shared ? side * side * plane_bytes(dtype, shape.tiles(tile), shape.in_channels) : 0;
}

void forward_patches(DType dtype, const ForwardParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(conv3x3::ForwardPatches, dtype, params, begin, end);
}

void forward(DType dtype, const ForwardParams& params, const Tasks& tasks, Worker& worker) {
  SEGNET_CALL_AT_LEVEL(conv3x3::Forward, dtype, params, tasks, worker);
}

int64_t grad_weight_parts(const Shape& shape) {
  const int64_t wanted = 16 / grad_weight_blocks(shape), worth = shape.tiles(kGradTile) / (8 * kTaskTiles);
  return std::max<int64_t>(1, std::min(wanted, worth));
}

void grad_weight_sums(DType dtype, const GradWeightParams& params, Worker& worker) {
  SEGNET_CALL_AT_LEVEL(conv3x3::GradWeightSums, dtype, params, worker);
}

void grad_weight_taps(DType dtype, const GradWeightParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(conv3x3::GradWeightTaps, dtype, params, begin, end);
}

}  // namespace segnet_ext::conv3x3
