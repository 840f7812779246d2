// Preparing weights for the tiled convolution, and the convolution by its definition, for kernels so large that no tile
// of them fits into shared memory.
#pragma once

#include "cuda/convert.cuh"
#include "cuda/launch.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_conv_kernel.cuh"
#include "segnet_ext/codes.h"
#include "segnet_ext/elementwise.h"

namespace segnet_ext::max_unpool2d_conv2d {

struct PackParams {
  Shape shape;
  bool flip;           // grad_input: channels of the other side, taps in reverse order
  const void* weight;  // [K, C, k, k]
  void* packed;  // [chunks, k * k, column_blocks, kWeightElements] of shared_t by WeightPlace, zero where there is none
  int column_blocks;
  int64_t elements;  // of packed
};

template <class Traits>
__global__ void __launch_bounds__(cuda::kElementThreads) pack_weight_kernel(const PackParams p) {
  using scalar_t = typename Traits::scalar_t;
  using shared_t = typename Traits::shared_t;
  const int64_t index = cuda::element_index();
  if (index >= p.elements) {
    return;
  }
  const int in_block = static_cast<int>(index % Traits::kWeightElements);
  int64_t rest = index / Traits::kWeightElements;
  const typename Traits::WeightPlace place(in_block / Traits::kVec);
  const int row = place.row, col = place.vec * Traits::kVec + in_block % Traits::kVec;
  const int64_t column = rest % p.column_blocks * Traits::kBlockN + (Traits::kIsTensorCore ? row : col);
  rest /= p.column_blocks;
  const int64_t tap = rest % p.shape.taps();
  const int64_t channel = rest / p.shape.taps() * Traits::kChunk + (Traits::kIsTensorCore ? col : row);

  const int64_t k = p.flip ? channel : column, c = p.flip ? column : channel;
  shared_t value{};
  if (k < p.shape.out_channels && c < p.shape.in_channels) {
    const int64_t source = p.flip ? p.shape.taps() - 1 - tap : tap;
    const scalar_t weight =
        static_cast<const scalar_t*>(p.weight)[(k * p.shape.in_channels + c) * p.shape.taps() + source];
    value = to_shared<Traits>(weight);
  }
  static_cast<shared_t*>(p.packed)[index] = value;
}

struct DirectParams {
  Shape shape;
  const void* map;       // forward: [N, OH, OW, C]; grad_input: [N, H, W, K]
  const uint8_t* codes;  // [N, OH, OW, ceil(C / 4)]
  const void* weight;    // [K, C, k, k]
  const void* bias;      // forward: [K] or null
  bool relu;             // forward
  void* result;          // forward: [N, H, W, K]; grad_input: [N, OH, OW, C]
  int64_t elements;      // of result
};

// How many blocks need to fit a multiprocessor is said here, or the compiler would rather spill than have fewer of
// them.
template <class scalar_t>
__global__ void __launch_bounds__(cuda::kElementThreads, 4) forward_direct_kernel(const DirectParams p) {
  using acc_t = acc_type<scalar_t>;
  const Shape& s = p.shape;
  const int64_t index = cuda::element_index();
  if (index >= p.elements) {
    return;
  }
  const int64_t k = index % s.out_channels;
  const int64_t x = index / s.out_channels % s.width, y = index / s.out_channels / s.width % s.height;
  const int64_t image = index / s.out_channels / s.width / s.height;
  acc_t sum = p.bias == nullptr ? acc_t{} : cuda::to_acc(static_cast<const scalar_t*>(p.bias)[k]);
  for (int64_t r = 0; r < s.kernel_size; ++r) {
    for (int64_t q = 0; q < s.kernel_size; ++q) {
      const int64_t row = y + r - s.radius(), col = x + q - s.radius();
      if (row < 0 || row / 2 >= s.pooled_height || col < 0 || col / 2 >= s.pooled_width) {
        continue;
      }
      const int64_t window = (image * s.pooled_height + row / 2) * s.pooled_width + col / 2;
      const int mask = code_mask(window_extent(row / 2, s.height), window_extent(col / 2, s.width));
      const int place = static_cast<int>(row % 2 * 2 + col % 2);
      for (int64_t c = 0; c < s.in_channels; ++c) {
        if ((get_code(p.codes + window * codes_bytes(s.in_channels), c) & mask) == place) {
          sum += cuda::to_acc(static_cast<const scalar_t*>(p.map)[window * s.in_channels + c]) *
                 cuda::to_acc(static_cast<const scalar_t*>(
                     p.weight)[((k * s.in_channels + c) * s.kernel_size + r) * s.kernel_size + q]);
        }
      }
    }
  }
  static_cast<scalar_t*>(p.result)[index] = cuda::from_acc<scalar_t>(p.relu ? relu(sum) : sum);
}

template <class scalar_t>
__global__ void __launch_bounds__(cuda::kElementThreads, 2) grad_input_direct_kernel(const DirectParams p) {
  using acc_t = acc_type<scalar_t>;
  const Shape& s = p.shape;
  const int64_t index = cuda::element_index();
  if (index >= p.elements) {
    return;
  }
  const int64_t c = index % s.in_channels, window = index / s.in_channels;
  const int64_t ow = window % s.pooled_width, oh = window / s.pooled_width % s.pooled_height;
  const int64_t image = window / s.pooled_width / s.pooled_height;
  const int code = get_code(p.codes + window * codes_bytes(s.in_channels), c) &
                   code_mask(window_extent(oh, s.height), window_extent(ow, s.width));
  const int64_t y = 2 * oh + (code >> 1), x = 2 * ow + (code & 1);
  acc_t sum{};
  for (int64_t r = 0; r < s.kernel_size; ++r) {
    for (int64_t q = 0; q < s.kernel_size; ++q) {
      const int64_t row = y - r + s.radius(), col = x - q + s.radius();
      if (row < 0 || row >= s.height || col < 0 || col >= s.width) {
        continue;
      }
      const auto* grads =
          static_cast<const scalar_t*>(p.map) + ((image * s.height + row) * s.width + col) * s.out_channels;
      for (int64_t k = 0; k < s.out_channels; ++k) {
        sum +=
            cuda::to_acc(grads[k]) * cuda::to_acc(static_cast<const scalar_t*>(
                                         p.weight)[((k * s.in_channels + c) * s.kernel_size + r) * s.kernel_size + q]);
      }
    }
  }
  static_cast<scalar_t*>(p.result)[index] = cuda::from_acc<scalar_t>(sum);
}

}  // namespace segnet_ext::max_unpool2d_conv2d
