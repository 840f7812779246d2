// CPU kernels of max_unpool2d_conv2d over channels_last maps: plain pointers, no torch.
//
// The unpooled map is never made. One value in four of it is not structurally zero, so each kernel gathers the values
// that there are and multiplies each by a whole row of weights or gradients at a time.
//
// acc_t below is double for double maps and float for all others.
#pragma once

#include <cstdint>

#include "max_unpool2d_conv2d/max_unpool2d_conv2d_shape.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::max_unpool2d_conv2d {

// Output channels are worked on in equal blocks, the last one padded with zero weights.
struct ChannelBlocks {
  int64_t count, width;
};
ChannelBlocks forward_blocks(DType dtype, const Shape& shape);
ChannelBlocks grad_input_blocks(DType dtype, const Shape& shape);
ChannelBlocks grad_weight_blocks(DType dtype, const Shape& shape);

// weight [K, C, k, k] of dtype to packed [blocks, C, k * k, width] of acc_t, taps in reverse order where `flip`.
void pack_weight(DType dtype, const Shape& shape, const ChannelBlocks& blocks, bool flip, const void* weight,
                 void* packed);

struct ForwardParams {
  Shape shape;
  ChannelBlocks blocks;
  const void* input;     // [N, OH, OW, C]
  const uint8_t* codes;  // [N, OH, OW, ceil(C / 4)]
  const void* weight;    // packed for forward_blocks
  const void* bias;      // [blocks * width] of acc_t, zero where there is no bias
  bool relu;
  void* output;  // [N, H, W, K]
};
int64_t forward_tasks(const Shape& shape);
void forward(DType dtype, const ForwardParams& params, int64_t begin_task, int64_t end_task);

struct GradInputParams {
  Shape shape;
  ChannelBlocks blocks;
  const void* grad_output;  // [N, H, W, K]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  const void* weight;       // packed for grad_input_blocks, flipped
  void* grad_input;         // [N, OH, OW, C]
};
int64_t grad_input_tasks(const Shape& shape);
void grad_input(DType dtype, const GradInputParams& params, int64_t begin_task, int64_t end_task);

struct GradWeightParams {
  Shape shape;
  ChannelBlocks blocks;
  const void* grad_output;  // [N, H, W, K]
  const void* input;        // [N, OH, OW, C]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  void* grad_weight;        // [K, C, k, k]
};
int64_t grad_weight_tasks(const Shape& shape, const ChannelBlocks& blocks);
void grad_weight(DType dtype, const GradWeightParams& params, int64_t begin_task, int64_t end_task);

struct GradBiasParams {
  Shape shape;
  const void* grad_output;  // [N, H, W, K]
  void* grad_bias;          // [K]
};
int64_t grad_bias_tasks(const Shape& shape);
void grad_bias(DType dtype, const GradBiasParams& params, int64_t begin_task, int64_t end_task);

}  // namespace segnet_ext::max_unpool2d_conv2d
