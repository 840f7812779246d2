// 3x3 convolution of stride 1 that keeps the size, over channels_last maps: plain pointers, no torch.
//
// Winograd's F(4x4, 3x3): a tile of 4x4 outputs costs 36 multiplications a pair of channels where the sum over taps
// costs 144. The half types, whose own rounding hides the larger error, are convolved by F(6x6, 3x3): 64 for 324. What
// is convolved is read through a Source, so that a BatchNorm, a ReLU or an unpooling in front of it
// needs no map of its own; what comes out can be pooled, or picked at winners, before it is written. Maps of a few
// pixels are convolved by the sum over taps.
//
// A NaN or an infinity reaches every output of the tiles whose patch, a tile and a pixel around it, holds it, where the
// sum over taps would spread it by one pixel. The half types' sums run in float32.
#pragma once

#include <cstdint>

#include "common/shares.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::conv3x3 {

// A 3x3 convolution's weights: the element of output channel k, input channel c and tap t lies at k * k_stride +
// c * c_stride + t * tap_stride, or where `flip` is set with tap 8 - t. One of the strides is 1.
struct Weight {
  const void* data;
  int64_t k_stride, c_stride, tap_stride;
  bool flip;
};

// The map that is convolved: `map` [N, H, W, C], or where there are codes the map that unpooling makes of `map`
// [N, OH, OW, C]; where there is a scale, of relu(map * scale + shift).
struct Source {
  const void* map;
  const uint8_t* codes;  // [N, OH, OW, ceil(C / 4)], or null
  const void* scale;     // [C] of acc_t, or null
  const void* shift;     // [C] of acc_t
  int64_t pooled_height, pooled_width;
};

// Up to so many pixels the transforms of the weights cost more than the multiplications that they save. Measured with
// 32 to 512 channels on one core of a Zen 4: at 4 pixels the sum over taps takes 0.3 to 0.7 of Winograd's time, at 16
// 0.6 to 0.9, at 32 0.8 to 1.2, at 64 1.2 to 1.9.
constexpr int64_t kDirectPixels = 24;

struct Shape {
  int64_t batch, in_channels, out_channels, height, width;

  // Of `side` outputs each way.
  int64_t tiles_down(int64_t side) const { return (height + side - 1) / side; }
  int64_t tiles_across(int64_t side) const { return (width + side - 1) / side; }
  int64_t tiles(int64_t side) const { return batch * tiles_down(side) * tiles_across(side); }
  int64_t pixels() const { return batch * height * width; }
  // By the sum over taps?
  bool direct() const { return pixels() <= kDirectPixels; }
};

// What is written: the map [N, H, W, K]; its 2x2, stride-2 max pool [N, OH, OW, K] and `codes_out`; or the map's values
// at the winners that `codes` names, [N, OH, OW, K].
enum class Result { kMap, kPool, kWinners };

struct ForwardParams {
  Shape shape;
  Source source;
  Weight weight;     // of the maps' dtype
  void* points;      // see forward_points
  void* patches;     // see forward_patches
  const void* bias;  // [K] of the maps' dtype, or null
  bool relu;
  Result result;
  void* output;
  uint8_t* codes_out;
  const uint8_t* codes;
  int64_t pooled_height, pooled_width;  // of kPool and kWinners
};

// Outputs of a tile each way: of the map, or of its input's gradient, and of what the gradient of the weights sums
// over.
constexpr int forward_tile(DType dtype) {
  return dtype == DType::kBFloat16 || dtype == DType::kHalf ? 6 : 4;
}
constexpr int kGradTile = 4;

// The work is cut into tasks by tiles and by output channels. Every output is the same sum however it is cut.
struct Tasks {
  int64_t tile_blocks, channel_blocks;

  int64_t count() const { return tile_blocks * channel_blocks; }
};
Tasks forward_tasks(DType dtype, const Shape& shape, int64_t threads);
// The bytes of the weights at the points, where they are to be made once for all tasks: forward_points then fills
// params.points, whole cache lines, with blocks [begin, end) of kPointChannels output channels before the first task.
// Else 0, and with null for params.points every task makes what it needs. Tasks have whole blocks, too.
constexpr int64_t kPointChannels = 32;
int64_t forward_points_bytes(DType dtype, const Shape& shape, const Tasks& tasks);
void forward_points(DType dtype, const ForwardParams& params, int64_t begin, int64_t end);
// Likewise of the patches of all tiles at the points, where several threads share a block of tiles: forward_patches
// fills params.patches with tiles [begin, end) of shape.tiles(forward_tile(dtype)).
int64_t forward_patches_bytes(DType dtype, const Shape& shape, const Tasks& tasks, int64_t threads);
void forward_patches(DType dtype, const ForwardParams& params, int64_t begin, int64_t end);
void forward(DType dtype, const ForwardParams& params, const Tasks& tasks, Worker& worker);

// The tiles are summed over in parts, whose number depends on the shape alone: so does the order of every sum. Where
// the convolution is direct, there is one.
constexpr int64_t kGradBlock = 64;  // output channels of a task
inline int64_t grad_weight_blocks(const Shape& shape) {
  return (shape.out_channels + kGradBlock - 1) / kGradBlock;
}
int64_t grad_weight_parts(const Shape& shape);
// Of a task's sums: the distances between output channels and between points, for which see stride_of, and the size.
inline int64_t grad_weight_row(const Shape& shape) {
  return (shape.in_channels + 31) / 32 * 32 + 16;
}
inline int64_t grad_weight_plane(const Shape& shape) {
  return kGradBlock * grad_weight_row(shape) + 16;
}
inline int64_t grad_weight_sums_size(const Shape& shape) {
  return 36 * grad_weight_plane(shape);
}

struct GradWeightParams {
  Shape shape;
  Source source;
  const void* grad_output;  // [N, H, W, K]
  int64_t parts;
  void* sums;         // [parts, blocks, grad_weight_sums_size] of acc_t, work space; unused where there is one part
  void* grad_weight;  // [K, C, 3, 3], or where it is channels_last [K, 3, 3, C]
  bool channels_last;
};
// First the tasks of parts * blocks that a worker takes; then, where there are several parts, output channels
// [begin, end).
void grad_weight_sums(DType dtype, const GradWeightParams& params, Worker& worker);
void grad_weight_taps(DType dtype, const GradWeightParams& params, int64_t begin, int64_t end);

}  // namespace segnet_ext::conv3x3
