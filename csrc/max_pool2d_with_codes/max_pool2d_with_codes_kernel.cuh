// CUDA kernels of max_pool2d_with_codes over channels_last maps, and how they are launched. All touch every byte once.
#pragma once

#include "common/pool.cuh"
#include "cuda/dispatch.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_launch.h"

namespace segnet_ext::max_pool2d_with_codes {

template <class scalar_t>
struct Identity {
  SEGNET_DEVICE acc_type<scalar_t> operator()(int, scalar_t x) const { return cuda::to_acc(x); }
};

template <class scalar_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) forward_kernel(cuda::Tiled<ForwardParams> params) {
  constexpr int kChannels = cuda::kWindowChannels<scalar_t, kWhole>;
  const ForwardParams& p = params.op;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(p.shape.channels - place.channel);
  if (group.exists()) {
    cuda::pool_windows(p, params.tiling, place, group, static_cast<const scalar_t*>(p.input),
                       static_cast<scalar_t*>(p.output), Identity<scalar_t>{});
  }
}

// Gradients are moved, not computed with: bits_t is any type of the size of an element. A window's winner gets the
// gradient, all other pixels zero.
template <class bits_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) backward_kernel(cuda::Tiled<BackwardParams> params) {
  constexpr int kChannels = cuda::kWindowChannels<bits_t, kWhole>;
  using Bits = cuda::Vector<bits_t, kChannels>;
  const BackwardParams& p = params.op;
  const PoolShape& s = p.shape;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(s.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  const int64_t row_stride = s.width * s.channels;
  cuda::Window window(s, place.item);
  for (int64_t item = place.item; item < place.end; item += params.tiling.rows, window.advance(s, params.tiling.rows)) {
    const Bits grad = group.load(static_cast<const bits_t*>(p.grad_output) + item * s.channels + place.channel);
    const int rows = window.rows(s), cols = window.cols(s);
    const unsigned codes = clip_codes(
        group.load_codes(p.codes + item * codes_bytes(s.channels) + place.channel / kCodesPerByte), rows, cols);
    bits_t* corner = static_cast<bits_t*>(p.grad_input) + window.corner(s) + place.channel;
    cuda::for_each_place(rows, cols, [&](int k, int row, int col) {
      Bits kept;
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        kept[i] = (codes >> 2 * i & 3) == static_cast<unsigned>(k) ? grad[i] : bits_t{};
      }
      group.store(corner + row * row_stride + col * s.channels, kept);
    });
    cuda::for_each_left_out(
        s, window, [&](int row, int col) { group.store(corner + row * row_stride + col * s.channels, Bits{}); });
  }
}

template <class bits_t, bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) gather_kernel(cuda::Tiled<GatherParams> params) {
  constexpr int kChannels = cuda::kWindowChannels<bits_t, kWhole>;
  using Bits = cuda::Vector<bits_t, kChannels>;
  const GatherParams& p = params.op;
  const PoolShape& s = p.shape;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(s.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  const int64_t row_stride = s.width * s.channels;
  cuda::Window window(s, place.item);
  for (int64_t item = place.item; item < place.end; item += params.tiling.rows, window.advance(s, params.tiling.rows)) {
    const int rows = window.rows(s), cols = window.cols(s);
    const unsigned codes = clip_codes(
        group.load_codes(p.codes + item * codes_bytes(s.channels) + place.channel / kCodesPerByte), rows, cols);
    const bits_t* corner = static_cast<const bits_t*>(p.map) + window.corner(s) + place.channel;
    Bits x[4] = {};
    cuda::for_each_place(
        rows, cols, [&](int k, int row, int col) { x[k] = group.load(corner + row * row_stride + col * s.channels); });
    Bits winners;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const unsigned code = codes >> 2 * i & 3;
      const bits_t upper = code & 1 ? x[1][i] : x[0][i], lower = code & 1 ? x[3][i] : x[2][i];
      winners[i] = code & 2 ? lower : upper;
    }
    group.store(static_cast<bits_t*>(p.output) + item * s.channels + place.channel, winners);
  }
}

// Starts `whole` where threads can access `maps` and codes by vectors, else `parts`.
template <class element_t, class Params>
void launch_over_windows(const cuda::Launcher& launch, void (*whole)(cuda::Tiled<Params>),
                         void (*parts)(cuda::Tiled<Params>), const Params& p, std::initializer_list<const void*> maps,
                         int64_t threads_to_fill) {
  const bool fits = cuda::fits_vectors<element_t>(p.shape.channels, maps, p.codes);
  const cuda::Tiling tiling =
      fits ? cuda::window_tiling<cuda::kWindowChannels<element_t, true>>(p.shape, threads_to_fill)
           : cuda::window_tiling<cuda::kWindowChannels<element_t, false>>(p.shape, threads_to_fill);
  launch(fits ? whole : parts, tiling.config(), cuda::Tiled<Params>{p, tiling});
}

// Calls body(bits_t{}) for the type that an element is moved as.
template <class Body>
void call_for_bits(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kDouble:
      return body(uint64_t{});
    case DType::kFloat:
      return body(uint32_t{});
    case DType::kBFloat16:
    case DType::kHalf:
      return body(uint16_t{});
  }
}

void launch_forward(const cuda::Launcher& launch, DType dtype, const ForwardParams& p, int64_t threads_to_fill) {
  cuda::call_for_dtype(dtype, [&](auto element) {
    using scalar_t = decltype(element);
    launch_over_windows<scalar_t>(launch, forward_kernel<scalar_t, true>, forward_kernel<scalar_t, false>, p,
                                  {p.input, p.output}, threads_to_fill);
  });
}

void launch_backward(const cuda::Launcher& launch, DType dtype, const BackwardParams& p, int64_t threads_to_fill) {
  call_for_bits(dtype, [&](auto bits) {
    using bits_t = decltype(bits);
    launch_over_windows<bits_t>(launch, backward_kernel<bits_t, true>, backward_kernel<bits_t, false>, p,
                                {p.grad_output, p.grad_input}, threads_to_fill);
  });
}

void launch_gather(const cuda::Launcher& launch, DType dtype, const GatherParams& p, int64_t threads_to_fill) {
  call_for_bits(dtype, [&](auto bits) {
    using bits_t = decltype(bits);
    launch_over_windows<bits_t>(launch, gather_kernel<bits_t, true>, gather_kernel<bits_t, false>, p, {p.map, p.output},
                                threads_to_fill);
  });
}

}  // namespace segnet_ext::max_pool2d_with_codes
