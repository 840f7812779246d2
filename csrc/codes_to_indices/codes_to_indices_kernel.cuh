// CUDA kernel of codes_to_indices and how it is launched.
#pragma once

#include "codes_to_indices/codes_to_indices_launch.h"
#include "common/pool.cuh"

namespace segnet_ext::codes_to_indices_impl {

// A thread has the four channels of a code byte, and writes 32 bytes of indices for it.
constexpr int kChannels = static_cast<int>(kCodesPerByte);

template <bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) codes_to_indices_kernel(cuda::Tiled<KernelParams> params) {
  const KernelParams& p = params.op;
  const PoolShape& s = p.shape;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(s.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  cuda::Window window(s, place.item);
  for (int64_t item = place.item; item < place.end; item += params.tiling.rows, window.advance(s, params.tiling.rows)) {
    const uint8_t* from = p.codes + item * codes_bytes(s.channels) + place.channel / kCodesPerByte;
    const unsigned codes = clip_codes(group.load_codes(from), window.rows(s), window.cols(s));
    cuda::Vector<int64_t, kChannels> indices;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      indices[i] = code_to_index(static_cast<int>(codes >> 2 * i & 3), window.oh, window.ow, s.width);
    }
    group.store(p.indices + item * s.channels + place.channel, indices);
  }
}

void launch(const cuda::Launcher& launcher, const KernelParams& p, int64_t threads_to_fill) {
  const cuda::Tiling tiling = cuda::window_tiling<kChannels>(p.shape, threads_to_fill);
  const bool whole = cuda::fits_vectors<int64_t>(p.shape.channels, {p.indices}, p.codes);
  launcher(whole ? codes_to_indices_kernel<true> : codes_to_indices_kernel<false>, tiling.config(),
           cuda::Tiled<KernelParams>{p, tiling});
}

}  // namespace segnet_ext::codes_to_indices_impl
