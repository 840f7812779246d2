// What chooses, sizes and starts the CUDA kernels of max_unpool2d_conv2d; max_unpool2d_conv2d_kernel.cuh defines it.
#pragma once

#include "cuda/launcher.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_shape.h"
#include "segnet_ext/dtypes.h"

namespace segnet_ext::max_unpool2d_conv2d {

// What multiplies. The matrix units take float16 from 7.5 on, bfloat16 and float32 cut to tf32 from 8.0 on; exact
// float32, float64, and bfloat16 before 8.0 take ordinary multiply-adds.
enum class Math { kTensorCores, kTensorCores75, kMultiplyAdd };

enum class Direction { kForward, kGradInput };

Math choose_math(DType dtype, int arch, bool allow_tf32);

// Whether the map is better unpooled into memory and convolved by cuDNN. Measured on an H200 (9.0), where cuDNN
// multiplies by wgmma, and mma.sync, which the kernels here are built on, has at best two thirds of its rate: passes
// over the unpooled map cost less than that. Expected of 10.x and 11.x, whose matrix units mma.sync does not reach. All
// others multiply by mma.sync or without matrix units, as do exact float32 and float64 everywhere.
inline bool prefers_dense(Math math, int arch) {
  return math == Math::kTensorCores && arch >= 90 && arch < 120;
}

// How a convolution is tiled. `wide` blocks compute 128 channels rather than 64: the map is unpooled once for twice the
// products, by warps that multiply as those of narrow blocks do.
//
// - Multiply-add: narrow, limited by arithmetic and not by loads; in float64 half as many channels fit registers.
// - Tensor cores, 16-bit elements: wide from 128 channels on where a multiprocessor has shared memory for two wide
//   blocks (59 KiB each for a 3x3 kernel, 78 for 7x7: on 8.0 and not on 8.6, 8.9 and 12.x), as long as there are two of
//   them for each of the 108 multiprocessors of an A100; else narrow, for more blocks. Not from 9.0 on, where the
//   compiler needs more registers than two wide blocks leave it, and spills.
// - Where there is room for a single wide block only, by shared memory or (tf32) by registers, narrow: the two or three
//   narrow blocks of a 3x3 kernel have as many warps or more, and multiply while another one waits at a barrier.
struct ConvPlan {
  Math math;
  bool wide;
  bool direct;           // the tile does not fit: by definition, a thread an element
  int64_t packed_bytes;  // of the prepared weights
};

ConvPlan plan_conv(const cuda::Launcher& launch, DType dtype, bool allow_tf32, const Shape& shape, Direction direction);

// Arguments of forward (map: the pooled map; result: [N, H, W, K]) and of grad_input (map: grad_output; result:
// [N, OH, OW, C]; no bias, no relu).
struct ConvArguments {
  const void* map;
  const uint8_t* codes;
  const void* weight;  // [K, C, k, k]
  const void* bias;    // [K] or null
  bool relu;
  void* result;
  void* packed;  // workspace of plan.packed_bytes; not used by a direct plan
};

void launch_conv(const cuda::Launcher& launch, DType dtype, const ConvPlan& plan, const Shape& shape,
                 Direction direction, const ConvArguments& arguments);

// How grad_weight is split. By the sizes and by what multiplies, so that GPUs that multiply alike add up in the same
// order.
struct GradWeightPlan {
  Math math;
  int64_t tile_rows, tile_cols, k_blocks, c_blocks, tap_groups, splits;

  int64_t partial_elements(const Shape& shape) const {
    return splits * shape.taps() * shape.out_channels * shape.in_channels;
  }
};

GradWeightPlan plan_grad_weight(const cuda::Launcher& launch, DType dtype, bool allow_tf32, const Shape& shape);

struct GradWeightArguments {
  const void* grad_output;  // [N, H, W, K]
  const void* input;        // [N, OH, OW, C]
  const uint8_t* codes;     // [N, OH, OW, ceil(C / 4)]
  void* partial;            // workspace of plan.partial_elements() of acc_t
  void* grad_weight;        // [K, C, k, k]
};

void launch_grad_weight(const cuda::Launcher& launch, DType dtype, const GradWeightPlan& plan, const Shape& shape,
                        const GradWeightArguments& arguments);

}  // namespace segnet_ext::max_unpool2d_conv2d
