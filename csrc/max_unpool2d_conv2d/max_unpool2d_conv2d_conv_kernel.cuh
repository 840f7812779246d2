// The convolution as an implicit product of matrices, pixels x (channels x taps) by (channels x taps) x channels.
// forward convolves the unpooled map, which exists in shared memory only; grad_input convolves grad_output with the
// mirrored kernel at all four pixels of a window and keeps the winner's.
#pragma once

#include "max_unpool2d_conv2d/max_unpool2d_conv2d_multiply.cuh"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_stage.cuh"
#include "segnet_ext/elementwise.h"

namespace segnet_ext::max_unpool2d_conv2d {

struct ConvParams {
  Shape shape;
  const void* map;       // forward: the pooled map [N, OH, OW, C]; grad_input: grad_output [N, H, W, K]
  const uint8_t* codes;  // [N, OH, OW, ceil(C / 4)]
  const void* weight;    // packed, see PackParams
  const void* bias;      // forward: [K] of scalar_t or null
  bool relu;             // forward
  void* result;          // forward: [N, H, W, K]; grad_input: [N, OH, OW, C]
  // Sums run over `channels` of the map in `chunks`; the result has `columns` channels in `column_blocks`.
  int channels, chunks, columns, column_blocks;
  int tile_rows, tile_cols;          // the grid of tiles over an image
  bool map_vectors, result_vectors;  // whether whole aligned vectors may be read and written
};

// A block's place: the column blocks of a tile of pixels lie next to each other, so that its map is read from the
// cache.
template <class Traits>
struct BlockPlace {
  int64_t image;
  int row, col, column_block;

  SEGNET_DEVICE explicit BlockPlace(const ConvParams& p) {
    column_block = static_cast<int>(blockIdx.x) % p.column_blocks;
    const int tile = static_cast<int>(blockIdx.x) / p.column_blocks;
    const int in_image = tile % (p.tile_rows * p.tile_cols);
    image = tile / (p.tile_rows * p.tile_cols);
    row = in_image / p.tile_cols * Traits::kTileRows;
    col = in_image % p.tile_cols * Traits::kTileCols;
  }
};

template <class Traits>
SEGNET_DEVICE void write_channels(typename Traits::scalar_t* pixel, int channel, int channels, bool vectors,
                                  const cuda::Vector<typename Traits::scalar_t, Traits::kOutVec>& values) {
  if (vectors) {
    if (channel < channels) {
      cuda::store_vector(pixel + channel, values);
    }
  } else {
#pragma unroll
    for (int i = 0; i < Traits::kOutVec; ++i) {
      if (channel + i < channels) {
        pixel[channel + i] = values[i];
      }
    }
  }
}

template <class Traits>
struct Forward {
  using scalar_t = typename Traits::scalar_t;
  using acc_t = typename Traits::acc_t;
  using Map = UnpooledMap<Traits, Traits::kChunkVecs, Traits::kPitch>;

  SEGNET_DEVICE static Map map(const ConvParams& p, const Rectangle& rectangle) {
    return Map(p.map, p.codes, p.shape, p.map_vectors, rectangle);
  }

  SEGNET_DEVICE static scalar_t finish(const ConvParams& p, acc_t sum, int channel) {
    if (p.bias != nullptr && channel < p.columns) {
      sum += cuda::to_acc(static_cast<const scalar_t*>(p.bias)[channel]);
    }
    return cuda::from_acc<scalar_t>(p.relu ? relu(sum) : sum);
  }

  // Writes rows [row, row + kWarpRows) of the block's tile from `sums` [kWarpRows * kTileCols][kOutPitch].
  SEGNET_DEVICE static void write(const ConvParams& p, const BlockPlace<Traits>& place, int row, const scalar_t* sums) {
    constexpr int kVecs = Traits::kBlockN / Traits::kOutVec;
    scalar_t* image = static_cast<scalar_t*>(p.result) + place.image * p.shape.height * p.shape.width * p.columns;
    for (int item = static_cast<int>(threadIdx.x); item < Traits::kWarpRows * Traits::kTileCols * kVecs;
         item += Traits::kThreads) {
      const int pixel = item / kVecs, column = item % kVecs * Traits::kOutVec;
      const int y = row + pixel / Traits::kTileCols, x = place.col + pixel % Traits::kTileCols;
      if (y < p.shape.height && x < p.shape.width) {
        write_channels<Traits>(image + (y * p.shape.width + x) * p.columns,
                               place.column_block * Traits::kBlockN + column, p.columns, p.result_vectors,
                               cuda::load_vector<Traits::kOutVec>(sums + pixel * Traits::kOutPitch + column));
      }
    }
  }
};

template <class Traits>
struct GradInput {
  using scalar_t = typename Traits::scalar_t;
  using acc_t = typename Traits::acc_t;
  using Map = DenseMap<Traits, Traits::kChunkVecs, Traits::kPitch>;

  SEGNET_DEVICE static Map map(const ConvParams& p, const Rectangle& rectangle) {
    return Map(p.map, p.shape.height, p.shape.width, p.channels, p.map_vectors, rectangle);
  }

  SEGNET_DEVICE static scalar_t finish(const ConvParams&, acc_t sum, int) { return cuda::from_acc<scalar_t>(sum); }

  SEGNET_DEVICE static void write(const ConvParams& p, const BlockPlace<Traits>& place, int row, const scalar_t* sums) {
    constexpr int kVecs = Traits::kBlockN / Traits::kOutVec;
    constexpr int kWindowCols = Traits::kTileCols / 2;
    const int64_t first_window = place.image * p.shape.pooled_height * p.shape.pooled_width;
    for (int item = static_cast<int>(threadIdx.x); item < Traits::kWarpRows / 2 * kWindowCols * kVecs;
         item += Traits::kThreads) {
      const int window = item / kVecs, column = item % kVecs * Traits::kOutVec;
      const int oh = row / 2 + window / kWindowCols, ow = place.col / 2 + window % kWindowCols;
      const int channel = place.column_block * Traits::kBlockN + column;
      if (oh < p.shape.pooled_height && ow < p.shape.pooled_width && channel < p.columns) {
        const int64_t index = first_window + oh * p.shape.pooled_width + ow;
        const uint8_t* codes = p.codes + index * codes_bytes(p.columns);
        const int mask = code_mask(window_extent(oh, p.shape.height), window_extent(ow, p.shape.width));
        const scalar_t* corner =
            sums + (window / kWindowCols * 2 * Traits::kTileCols + window % kWindowCols * 2) * Traits::kOutPitch +
            column;
        cuda::Vector<scalar_t, Traits::kOutVec> values;
#pragma unroll
        for (int i = 0; i < Traits::kOutVec; ++i) {
          const int code = channel + i < p.columns ? get_code(codes, channel + i) & mask : 0;
          values[i] = corner[((code >> 1) * Traits::kTileCols + (code & 1)) * Traits::kOutPitch + i];
        }
        write_channels<Traits>(static_cast<scalar_t*>(p.result) + index * p.columns, channel, p.columns,
                               p.result_vectors, values);
      }
    }
  }
};

template <class Traits, class Pass>
SEGNET_DEVICE void convolve_block(const ConvParams& p) {
  using scalar_t = typename Traits::scalar_t;
  using shared_t = typename Traits::shared_t;
  constexpr int kStage = Traits::kWeightRows * Traits::kWeightPitch;
  static_assert(Traits::kWeightStages == 3);

  SEGNET_DYNAMIC_SHARED(shared);
  const int kernel_size = static_cast<int>(p.shape.kernel_size), radius = kernel_size / 2;
  const int taps = kernel_size * kernel_size;
  const int map_cols = Traits::halo_cols(kernel_size);
  const int map_elements = Traits::halo_rows(kernel_size) * map_cols * Traits::kPitch;
  shared_t* const maps = reinterpret_cast<shared_t*>(shared);  // two
  shared_t* const weight_stages = maps + 2 * map_elements;     // kWeightStages

  const BlockPlace<Traits> place(p);
  const int thread = static_cast<int>(threadIdx.x);
  const int steps = p.chunks * taps;

  // Starts to copy the weights of a step, one tap of one chunk.
  const auto fetch_weights = [&](int step, int stage) {
    if (step < steps) {
      const shared_t* from = static_cast<const shared_t*>(p.weight) +
                             (int64_t(step) * p.column_blocks + place.column_block) * Traits::kWeightElements;
      shared_t* to = weight_stages + stage * kStage;
      for (int item = thread; item < Traits::kWeightElements / Traits::kVec; item += Traits::kThreads) {
        const typename Traits::WeightPlace to_place(item);
        cuda::copy_async_16(to + to_place.row * Traits::kWeightPitch + to_place.vec * Traits::kVec,
                            from + item * Traits::kVec, true);
      }
    }
    cuda::copy_async_commit();
  };
  fetch_weights(0, 0);
  fetch_weights(1, 1);

  const auto map = Pass::map(
      p, Rectangle{place.image, place.row - radius, place.col - radius, Traits::halo_rows(kernel_size), map_cols});
  const int items = map.items();
  for (int item = thread; item < items; item += Traits::kThreads) {
    map.store(item, map.load(item, 0), maps);
  }
  // Each tap of a chunk also brings in a share of the next chunk's map, the last item of the share while it multiplies.
  const int share = (items + Traits::kThreads * taps - 1) / (Traits::kThreads * taps);

  ProductTile<Traits> products;
  int step = 0, stage = 0;
  for (int chunk = 0; chunk < p.chunks; ++chunk) {
    const shared_t* tap_map = maps + chunk % 2 * map_elements;
    shared_t* const next = maps + (chunk + 1) % 2 * map_elements;
    const int next_channel = (chunk + 1) * Traits::kChunk;
    // Past the last item, nothing is brought in.
    int item = chunk + 1 < p.chunks ? thread : items;
    for (int tap_row = 0; tap_row < kernel_size; ++tap_row, tap_map += (map_cols - kernel_size) * Traits::kPitch) {
      for (int tap_col = 0; tap_col < kernel_size; ++tap_col, tap_map += Traits::kPitch, ++step) {
        // All but the newest group have landed, for this thread; and behind the barrier for all of them. The barrier
        // also says that nobody reads the buffers any more that are written from here on.
        cuda::copy_async_wait<1>();
        __syncthreads();
        fetch_weights(step + 2, stage == 0 ? 2 : stage - 1);

        for (int left = share; left > 0; --left, item += Traits::kThreads) {
          typename Pass::Map::Item loaded{};
          if (item < items) {
            loaded = map.load(item, next_channel);
          }
          if (left == 1) {
            products.add_tap(tap_map, map_cols, weight_stages + stage * kStage);
          }
          if (item < items) {
            map.store(item, loaded, next);
          }
        }
        stage = stage == 2 ? 0 : stage + 1;
      }
    }
    products.end_chunk();
  }

  // What is still under way belongs to no step; the buffers are free for the result all the same only once it is there.
  cuda::copy_async_wait<0>();
  scalar_t* const sums = reinterpret_cast<scalar_t*>(shared);  // [kWarpRows * kTileCols][kOutPitch]
  for (int half = 0; half < Traits::kTileRows / Traits::kWarpRows; ++half) {
    __syncthreads();
    products.for_each_sum(half, [&](int pixel, int column, const auto& values) {
      constexpr int kCount = sizeof(values) / sizeof(values[0]);
      cuda::Vector<scalar_t, kCount> finished;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        finished[i] = Pass::finish(p, values[i], place.column_block * Traits::kBlockN + column + i);
      }
      cuda::store_vector(sums + pixel * Traits::kOutPitch + column, finished);
    });
    __syncthreads();
    Pass::write(p, place, place.row + half * Traits::kWarpRows, sums);
  }
}

template <class Traits, template <class> class Pass>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kMinBlocks) convolve_kernel(const ConvParams p) {
  if constexpr (cuda::compiled_for<Traits::kMinArch, Traits::kMaxArch>()) {
    convolve_block<Traits, Pass<Traits>>(p);
  } else {
    cuda::trap();
  }
}

}  // namespace segnet_ext::max_unpool2d_conv2d
