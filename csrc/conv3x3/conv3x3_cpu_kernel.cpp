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

// How much is worked on at a time.
constexpr int64_t kTaskTiles = 48;        // of 6x6, whose transformed weights serve so many; of 4x4, twice as many
constexpr int64_t kGradTiles = 32;        // tiles of a gradient of the weights: kGradBlock rows of them stay in L1
constexpr int64_t kWeightChannels = 128;  // input channels of weights that are transformed at a time: they stay in L2

static_assert(conv3x3::kDirectPixels <= kGradTiles && conv3x3::kDirectPixels <= kTaskTiles,
              "a map that is convolved directly is worked on as a whole");

constexpr int64_t kMinChannels = 32;  // output channels of a task where tiles alone do not make tasks enough

}  // namespace
}  // namespace segnet_ext

#define SEGNET_SIMD_FILE "conv3x3/conv3x3_cpu_kernel.inl"
#include "simd/foreach_level.h"

namespace segnet_ext::conv3x3 {

Tasks forward_tasks(DType dtype, const Shape& shape, int64_t threads) {
  const int64_t wanted = threads == 1 ? 1 : 4 * threads;
  const int64_t side = forward_tile(dtype), task_tiles = side == 6 ? kTaskTiles : 2 * kTaskTiles;
  // As many for each thread, unless there are few tiles.
  const int64_t blocks = ceil_div(shape.tiles(side), task_tiles);
  Tasks tasks{blocks < threads ? blocks : ceil_div(blocks, threads) * threads, 1};
  while (tasks.count() < wanted && 2 * tasks.channel_blocks <= ceil_div(shape.out_channels, kMinChannels)) {
    tasks.channel_blocks *= 2;
  }
  return tasks;
}

void forward(DType dtype, const ForwardParams& params, const Tasks& tasks, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(conv3x3::Forward, dtype, params, tasks, begin, end);
}

int64_t grad_weight_parts(const Shape& shape) {
  const int64_t wanted = 16 / grad_weight_blocks(shape), worth = shape.tiles(kGradTile) / (8 * kTaskTiles);
  return std::max<int64_t>(1, std::min(wanted, worth));
}

void grad_weight_sums(DType dtype, const GradWeightParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(conv3x3::GradWeightSums, dtype, params, begin, end);
}

void grad_weight_taps(DType dtype, const GradWeightParams& params, int64_t begin, int64_t end) {
  SEGNET_CALL_AT_LEVEL(conv3x3::GradWeightTaps, dtype, params, begin, end);
}

}  // namespace segnet_ext::conv3x3
