// How the CUDA kernels of max_unpool2d_conv2d are chosen, sized and started.
#pragma once

#include <algorithm>

#include "common/tiling.cuh"
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_conv_kernel.cuh"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_direct_kernel.cuh"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_grad_weight_kernel.cuh"

namespace segnet_ext::max_unpool2d_conv2d {

// Which multiplication an architecture has for a dtype.
Math choose_math(DType dtype, int arch, bool allow_tf32) {
  switch (dtype) {
    case DType::kHalf:
      return arch >= 80 ? Math::kTensorCores : Math::kTensorCores75;
    case DType::kBFloat16:
      return arch >= 80 ? Math::kTensorCores : Math::kMultiplyAdd;
    case DType::kFloat:
      return arch >= 80 && allow_tf32 ? Math::kTensorCores : Math::kMultiplyAdd;
    case DType::kDouble:
      break;
  }
  return Math::kMultiplyAdd;
}

template <class scalar_t, Math kMath, bool kWide = false>
using ConvTraitsFor =
    ConvTraits<scalar_t, kMath,
               kMath == Math::kMultiplyAdd ? 16 * MathTraits<scalar_t, kMath>::kVec : (kWide ? 128 : 64)>;

// Calls body(ConvTraits<...>{}) for what the plan stands for.
template <class Body>
void with_conv_traits(DType dtype, const ConvPlan& plan, const Body& body) {
  switch (dtype) {
    case DType::kHalf:
      if (plan.math == Math::kTensorCores75) {
        return body(ConvTraitsFor<half, Math::kTensorCores75>{});
      }
      return plan.wide ? body(ConvTraitsFor<half, Math::kTensorCores, true>{})
                       : body(ConvTraitsFor<half, Math::kTensorCores>{});
    case DType::kBFloat16:
      if (plan.math == Math::kMultiplyAdd) {
        return body(ConvTraitsFor<bfloat16, Math::kMultiplyAdd>{});
      }
      return plan.wide ? body(ConvTraitsFor<bfloat16, Math::kTensorCores, true>{})
                       : body(ConvTraitsFor<bfloat16, Math::kTensorCores>{});
    case DType::kFloat:
      if (plan.math == Math::kMultiplyAdd) {
        return body(ConvTraitsFor<float, Math::kMultiplyAdd>{});
      }
      return body(ConvTraitsFor<float, Math::kTensorCores>{});
    case DType::kDouble:
      return body(ConvTraitsFor<double, Math::kMultiplyAdd>{});
  }
}

struct ConvSizes {
  int64_t channels, columns;  // summed over, and computed
  int64_t chunks, column_blocks, tile_rows, tile_cols, blocks;
  int64_t packed_elements;
};

template <class Traits>
ConvSizes conv_sizes(const Shape& shape, Direction direction) {
  ConvSizes sizes{};
  sizes.channels = direction == Direction::kForward ? shape.in_channels : shape.out_channels;
  sizes.columns = direction == Direction::kForward ? shape.out_channels : shape.in_channels;
  sizes.chunks = cuda::ceil_div(sizes.channels, Traits::kChunk);
  sizes.column_blocks = cuda::ceil_div(sizes.columns, Traits::kBlockN);
  sizes.tile_rows = cuda::ceil_div(shape.height, Traits::kTileRows);
  sizes.tile_cols = cuda::ceil_div(shape.width, Traits::kTileCols);
  sizes.blocks = shape.batch * sizes.tile_rows * sizes.tile_cols * sizes.column_blocks;
  sizes.packed_elements = sizes.chunks * shape.taps() * sizes.column_blocks * Traits::kWeightElements;
  return sizes;
}

// Whether a multiprocessor has shared memory for two blocks of a convolution, where one may ask for `limit` bytes: all
// but what is set aside for it.
template <class Traits>
bool fits_twice(int64_t limit, int64_t kernel_size) {
  constexpr int64_t kSetAside = 1024;
  const int64_t bytes = Traits::shared_bytes(kernel_size);
  return bytes <= limit && 2 * (bytes + kSetAside) <= limit + kSetAside;
}

// Kernels count rows, columns and channels by 32-bit numbers.
void check_extents(const Shape& shape) {
  cuda::check_extent("rows", shape.height);
  cuda::check_extent("columns", shape.width);
  cuda::check_extent("channels", std::max(shape.in_channels, shape.out_channels));
}

ConvPlan plan_conv(const cuda::Launcher& launch, DType dtype, bool allow_tf32, const Shape& shape,
                   Direction direction) {
  constexpr int64_t kBlocksWanted = 216;
  check_extents(shape);
  ConvPlan plan{choose_math(dtype, launch.arch(), allow_tf32), true, false, 0};
  with_conv_traits(dtype, plan, [&](auto traits) {
    using Traits = decltype(traits);  // of wide blocks, where there are such
    const ConvSizes sizes = conv_sizes<Traits>(shape, direction);
    plan.wide = Traits::kIsWide && launch.arch() < 90 && sizes.columns >= Traits::kBlockN &&
                sizes.blocks >= kBlocksWanted && fits_twice<Traits>(launch.shared_limit(), shape.kernel_size);
  });
  with_conv_traits(dtype, plan, [&](auto traits) {
    using Traits = decltype(traits);
    plan.direct = Traits::shared_bytes(shape.kernel_size) > launch.shared_limit();
    plan.packed_bytes =
        conv_sizes<Traits>(shape, direction).packed_elements * static_cast<int64_t>(sizeof(typename Traits::shared_t));
  });
  return plan;
}

// Whether whole vectors of a map's channels may be accessed.
template <int kVec>
bool has_vectors(const void* map, int64_t channels) {
  return channels % kVec == 0 && cuda::are_aligned({map}, cuda::kVectorBytes);
}

template <class Traits, template <class> class Pass>
void launch_tiled_conv(const cuda::Launcher& launch, const Shape& shape, Direction direction,
                       const ConvArguments& arguments) {
  const ConvSizes sizes = conv_sizes<Traits>(shape, direction);
  PackParams pack{};
  pack.shape = shape;
  pack.flip = direction == Direction::kGradInput;
  pack.weight = arguments.weight;
  pack.packed = arguments.packed;
  pack.column_blocks = static_cast<int>(sizes.column_blocks);
  pack.elements = sizes.packed_elements;
  launch(pack_weight_kernel<Traits>, cuda::element_config(pack.elements), pack);

  ConvParams params{};
  params.shape = shape;
  params.map = arguments.map;
  params.codes = arguments.codes;
  params.weight = arguments.packed;
  params.bias = arguments.bias;
  params.relu = arguments.relu;
  params.result = arguments.result;
  params.channels = static_cast<int>(sizes.channels);
  params.chunks = static_cast<int>(sizes.chunks);
  params.columns = static_cast<int>(sizes.columns);
  params.column_blocks = static_cast<int>(sizes.column_blocks);
  params.tile_rows = static_cast<int>(sizes.tile_rows);
  params.tile_cols = static_cast<int>(sizes.tile_cols);
  params.map_vectors = has_vectors<Traits::kVec>(arguments.map, sizes.channels);
  params.result_vectors = has_vectors<Traits::kOutVec>(arguments.result, sizes.columns);
  launch(
      convolve_kernel<Traits, Pass>,
      {cuda::grid_size(sizes.blocks), Traits::kThreads, static_cast<size_t>(Traits::shared_bytes(shape.kernel_size))},
      params);
}

void launch_conv(const cuda::Launcher& launch, DType dtype, const ConvPlan& plan, const Shape& shape,
                 Direction direction, const ConvArguments& arguments) {
  if (!plan.direct) {
    return with_conv_traits(dtype, plan, [&](auto traits) {
      using Traits = decltype(traits);
      if (direction == Direction::kForward) {
        launch_tiled_conv<Traits, Forward>(launch, shape, direction, arguments);
      } else {
        launch_tiled_conv<Traits, GradInput>(launch, shape, direction, arguments);
      }
    });
  }
  cuda::call_for_dtype(dtype, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const bool forward = direction == Direction::kForward;
    const DirectParams params{shape,
                              arguments.map,
                              arguments.codes,
                              arguments.weight,
                              arguments.bias,
                              arguments.relu,
                              arguments.result,
                              forward ? shape.batch * shape.height * shape.width * shape.out_channels
                                      : shape.batch * shape.pooled_height * shape.pooled_width * shape.in_channels};
    launch(forward ? forward_direct_kernel<scalar_t> : grad_input_direct_kernel<scalar_t>,
           cuda::element_config(params.elements), params);
  });
}

template <class Body>
void with_grad_weight_traits(DType dtype, Math math, const Body& body) {
  switch (dtype) {
    case DType::kHalf:
      return math == Math::kTensorCores75 ? body(GradWeightTraits<half, Math::kTensorCores75>{})
                                          : body(GradWeightTraits<half, Math::kTensorCores>{});
    case DType::kBFloat16:
      return math == Math::kMultiplyAdd ? body(GradWeightTraits<bfloat16, Math::kMultiplyAdd>{})
                                        : body(GradWeightTraits<bfloat16, Math::kTensorCores>{});
    case DType::kFloat:
      return math == Math::kMultiplyAdd ? body(GradWeightTraits<float, Math::kMultiplyAdd>{})
                                        : body(GradWeightTraits<float, Math::kTensorCores>{});
    case DType::kDouble:
      return body(GradWeightTraits<double, Math::kMultiplyAdd>{});
  }
}

GradWeightPlan plan_grad_weight(const cuda::Launcher& launch, DType dtype, bool allow_tf32, const Shape& shape) {
  constexpr int64_t kBlocksWanted = 512;          // about four for each multiprocessor of a large GPU
  constexpr int64_t kPartialElements = 16 << 20;  // 64 MiB of float32 parts at most, but for a single one
  check_extents(shape);
  GradWeightPlan plan{};
  plan.math = choose_math(dtype, launch.arch(), allow_tf32);
  with_grad_weight_traits(dtype, plan.math, [&](auto traits) {
    using Traits = decltype(traits);
    plan.tile_rows = cuda::ceil_div(shape.height, Traits::kTileRows);
    plan.tile_cols = cuda::ceil_div(shape.width, Traits::kTileCols);
    plan.k_blocks = cuda::ceil_div(shape.out_channels, Traits::kBlockK);
    plan.c_blocks = cuda::ceil_div(shape.in_channels, Traits::kBlockC);
    plan.tap_groups = shape.kernel_size * cuda::ceil_div(shape.kernel_size, Traits::kTaps);
  });
  const int64_t tiles = shape.batch * plan.tile_rows * plan.tile_cols;
  const int64_t wanted = cuda::ceil_div(kBlocksWanted, plan.k_blocks * plan.c_blocks * plan.tap_groups);
  const int64_t room = kPartialElements / (shape.taps() * shape.out_channels * shape.in_channels);
  plan.splits = std::max<int64_t>(1, std::min({tiles, wanted, room}));
  return plan;
}

void launch_grad_weight(const cuda::Launcher& launch, DType dtype, const GradWeightPlan& plan, const Shape& shape,
                        const GradWeightArguments& arguments) {
  with_grad_weight_traits(dtype, plan.math, [&](auto traits) {
    using Traits = decltype(traits);
    GradWeightParams params{};
    params.shape = shape;
    params.grad_output = arguments.grad_output;
    params.input = arguments.input;
    params.codes = arguments.codes;
    params.partial = arguments.partial;
    params.k_blocks = static_cast<int>(plan.k_blocks);
    params.c_blocks = static_cast<int>(plan.c_blocks);
    params.tap_groups = static_cast<int>(plan.tap_groups);
    params.splits = static_cast<int>(plan.splits);
    params.tile_rows = static_cast<int>(plan.tile_rows);
    params.tile_cols = static_cast<int>(plan.tile_cols);
    params.tiles = shape.batch * plan.tile_rows * plan.tile_cols;
    params.grad_vectors = has_vectors<Traits::kVec>(arguments.grad_output, shape.out_channels);
    params.input_vectors = has_vectors<Traits::kVec>(arguments.input, shape.in_channels);
    launch(grad_weight_kernel<Traits>,
           {cuda::grid_size(plan.k_blocks * plan.c_blocks * plan.tap_groups * plan.splits), Traits::kThreads,
            static_cast<size_t>(Traits::kSharedBytes)},
           params);
  });
  cuda::call_for_dtype(dtype, [&](auto scalar) {
    using scalar_t = decltype(scalar);
    const MergeParams merge{shape, static_cast<int>(plan.splits), arguments.partial, arguments.grad_weight};
    launch(merge_grad_weight_kernel<scalar_t>,
           cuda::element_config(shape.taps() * shape.out_channels * shape.in_channels), merge);
  });
}

}  // namespace segnet_ext::max_unpool2d_conv2d
