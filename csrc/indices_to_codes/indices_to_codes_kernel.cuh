// CUDA kernels of indices_to_codes and how they are launched.
#pragma once

#include "common/pool.cuh"
#include "indices_to_codes/indices_to_codes_launch.h"

namespace segnet_ext::indices_to_codes_impl {

// A thread has the four channels of a code byte, and reads 32 bytes of indices for it.
constexpr int kChannels = static_cast<int>(kCodesPerByte);

template <class Params>
__global__ void clear_kernel(Params p) {
  *p.outside = 0;
}

template <bool kWhole>
__global__ void __launch_bounds__(cuda::kTileThreads) indices_to_codes_kernel(cuda::Tiled<KernelParams> params) {
  const KernelParams& p = params.op;
  const PoolShape& s = p.shape;
  const cuda::TilePlace<kChannels> place(params.tiling);
  const cuda::ChannelGroup<kChannels, kWhole> group(s.channels - place.channel);
  if (!group.exists()) {
    return;
  }
  bool outside = false;
  cuda::Window window(s, place.item);
  for (int64_t item = place.item; item < place.end; item += params.tiling.rows, window.advance(s, params.tiling.rows)) {
    const auto indices = group.load(p.indices + item * s.channels + place.channel);
    const int rows = window.rows(s), cols = window.cols(s);
    unsigned codes = 0;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int code = index_to_code(indices[i], window.oh, window.ow, rows, cols, s.width);
      if (group.has(i)) {
        outside |= code < 0;
        codes |= (static_cast<unsigned>(code) & 3) << 2 * i;
      }
    }
    group.store_codes(p.codes + item * codes_bytes(s.channels) + place.channel / kCodesPerByte, codes);
  }
  if (outside) {
    *p.outside = 1;  // by any number of threads: all write the same
  }
}

void launch(const cuda::Launcher& launcher, const KernelParams& p, int64_t threads_to_fill) {
  const cuda::Tiling tiling = cuda::window_tiling<kChannels>(p.shape, threads_to_fill);
  const bool whole = cuda::fits_vectors<int64_t>(p.shape.channels, {p.indices}, p.codes);
  launcher(clear_kernel<KernelParams>, {dim3(1), dim3(1)}, p);
  launcher(whole ? indices_to_codes_kernel<true> : indices_to_codes_kernel<false>, tiling.config(),
           cuda::Tiled<KernelParams>{p, tiling});
}

}  // namespace segnet_ext::indices_to_codes_impl
