// Bringing a rectangle of a map into shared memory, channel chunk by channel chunk: a dense map as it is, a pooled one
// unpooled on the way. Both are cut into items (a vector of channels of one pixel or one window) that threads load and
// store in two steps, so that arithmetic can run in between.
#pragma once

#include "cuda/convert.cuh"
#include "cuda/vector.cuh"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_traits.cuh"
#include "segnet_ext/codes.h"

namespace segnet_ext::max_unpool2d_conv2d {

// A rectangle of an image, of which the parts outside the image read as zeros.
struct Rectangle {
  int64_t image;  // index in the batch
  int row, col;   // of its first pixel; may be negative
  int rows, cols;
};

// An element as it is kept in shared memory.
template <class Traits>
SEGNET_DEVICE typename Traits::shared_t to_shared(typename Traits::scalar_t value) {
  if constexpr (Traits::kIsTf32) {
    return cuda::round_to_tf32(value);
  } else if constexpr (Traits::kIsTensorCore) {
    return value;
  } else {
    return cuda::to_acc(value);
  }
}

// kVec channels of a pixel from `channel` on, as they are kept in shared memory; zeros past the last of `channels`.
template <class Traits>
SEGNET_DEVICE cuda::Vector<typename Traits::shared_t, Traits::kVec> load_channels(
    const typename Traits::scalar_t* pixel, int channel, int channels, bool vectors) {
  using scalar_t = typename Traits::scalar_t;
  using shared_t = typename Traits::shared_t;
  cuda::Vector<scalar_t, Traits::kVec> raw;
  if (vectors) {
    raw =
        channel < channels ? cuda::load_vector<Traits::kVec>(pixel + channel) : cuda::Vector<scalar_t, Traits::kVec>{};
  } else {
#pragma unroll
    for (int i = 0; i < Traits::kVec; ++i) {
      raw[i] = channel + i < channels ? pixel[channel + i] : scalar_t{};
    }
  }
  cuda::Vector<shared_t, Traits::kVec> values;
#pragma unroll
  for (int i = 0; i < Traits::kVec; ++i) {
    values[i] = to_shared<Traits>(raw[i]);
  }
  return values;
}

// A dense map [N, height, width, channels]. Neighbouring threads have the vectors of a pixel, so that whole sectors are
// read from few cache lines; where a chunk is 64 bytes, eight of them then write in two passes over the banks.
template <class Traits, int kChunkVecs, int kPitch>
class DenseMap {
 public:
  using shared_t = typename Traits::shared_t;
  struct Item {
    cuda::Vector<shared_t, Traits::kVec> values;
  };

  SEGNET_DEVICE DenseMap(const void* map, int64_t height, int64_t width, int64_t channels, bool vectors,
                         const Rectangle& rectangle)
      : image_(static_cast<const typename Traits::scalar_t*>(map) + rectangle.image * height * width * channels),
        height_(static_cast<int>(height)),
        width_(static_cast<int>(width)),
        channels_(static_cast<int>(channels)),
        vectors_(vectors),
        rectangle_(rectangle) {}

  SEGNET_DEVICE int items() const { return rectangle_.rows * rectangle_.cols * kChunkVecs; }

  SEGNET_DEVICE Item load(int item, int first_channel) const {
    const int pixel = item / kChunkVecs;
    const int row = rectangle_.row + pixel / rectangle_.cols, col = rectangle_.col + pixel % rectangle_.cols;
    const int channel = first_channel + item % kChunkVecs * Traits::kVec;
    if (row < 0 || row >= height_ || col < 0 || col >= width_) {
      return {};
    }
    return {load_channels<Traits>(image_ + (int64_t(row) * width_ + col) * channels_, channel, channels_, vectors_)};
  }

  SEGNET_DEVICE void store(int item, const Item& loaded, shared_t* tile) const {
    cuda::store_vector(tile + item / kChunkVecs * kPitch + item % kChunkVecs * Traits::kVec, loaded.values);
  }

 private:
  const typename Traits::scalar_t* image_;
  int height_, width_, channels_;
  bool vectors_;
  Rectangle rectangle_;
};

// A pooled map [N, pooled_height, pooled_width, channels] and its codes, as the unpooled map [N, height, width,
// channels]. A window writes all of its pixels, the winner's value and zeros, so shared memory needs no clearing.
template <class Traits, int kChunkVecs, int kPitch>
class UnpooledMap {
 public:
  using shared_t = typename Traits::shared_t;
  struct Item {
    cuda::Vector<shared_t, Traits::kVec> values;
    unsigned codes;  // two bits a channel
  };

  SEGNET_DEVICE UnpooledMap(const void* pooled, const uint8_t* codes, const Shape& shape, bool vectors,
                            const Rectangle& rectangle)
      : shape_(shape),
        vectors_(vectors),
        row_(rectangle.row),
        col_(rectangle.col),
        rows_(rectangle.rows),
        cols_(rectangle.cols),
        window_rows_(((row_ + rows_ - 1) >> 1) - (row_ >> 1) + 1),
        window_cols_(((col_ + cols_ - 1) >> 1) - (col_ >> 1) + 1) {
    const int64_t windows = rectangle.image * shape.pooled_height * shape.pooled_width;
    pooled_ = static_cast<const typename Traits::scalar_t*>(pooled) + windows * shape.in_channels;
    codes_ = codes + windows * codes_bytes(shape.in_channels);
  }

  SEGNET_DEVICE int items() const { return Place::items(window_rows_ * window_cols_); }

  SEGNET_DEVICE Item load(int item, int first_channel) const {
    const Place place(item);
    const int row = (row_ >> 1) + place.row / window_cols_, col = (col_ >> 1) + place.row % window_cols_;
    const int channel = first_channel + place.vec * Traits::kVec;
    const int channels = static_cast<int>(shape_.in_channels);
    if (row < 0 || row >= shape_.pooled_height || col < 0 || col >= shape_.pooled_width || channel >= channels) {
      return {};
    }
    const int64_t index = row * shape_.pooled_width + col;
    Item loaded{load_channels<Traits>(pooled_ + index * channels, channel, channels, vectors_), 0};
    const int code_bytes = static_cast<int>(codes_bytes(channels));
    const uint8_t* bytes = codes_ + index * code_bytes;
    const int byte = channel / static_cast<int>(kCodesPerByte);
    if constexpr (Traits::kVec < kCodesPerByte) {
      loaded.codes = bytes[byte] >> (2 * (channel % static_cast<int>(kCodesPerByte)));
    } else {
#pragma unroll
      for (int i = 0; i < Traits::kVec / static_cast<int>(kCodesPerByte); ++i) {
        loaded.codes |= (byte + i < code_bytes ? static_cast<unsigned>(bytes[byte + i]) : 0u) << (8 * i);
      }
    }
    // As many copies of the window's mask as there are codes.
    loaded.codes &=
        0x5555u * static_cast<unsigned>(code_mask(window_extent(row, shape_.height), window_extent(col, shape_.width)));
    return loaded;
  }

  SEGNET_DEVICE void store(int item, const Item& loaded, shared_t* tile) const {
    const Place place(item);
    // The first window's first row or column may lie outside the rectangle, and so does a window past the last one.
    const int row = 2 * (place.row / window_cols_) - (row_ & 1), col = 2 * (place.row % window_cols_) - (col_ & 1);
#pragma unroll
    for (int code = 0; code < 4; ++code) {
      const int r = row + (code >> 1), c = col + (code & 1);
      if (r >= 0 && r < rows_ && c >= 0 && c < cols_) {
        cuda::Vector<shared_t, Traits::kVec> pixel;
#pragma unroll
        for (int i = 0; i < Traits::kVec; ++i) {
          pixel[i] = static_cast<int>(loaded.codes >> (2 * i) & 3) == code ? loaded.values[i] : shared_t{};
        }
        cuda::store_vector(tile + (r * cols_ + c) * kPitch + place.vec * Traits::kVec, pixel);
      }
    }
  }

 private:
  using Place = cuda::BankFreeRows<kChunkVecs, 2 * kPitch / Traits::kVec>;  // of a window, whose pixels lie two apart

  const Shape& shape_;  // a kernel's parameters, which take no registers
  const typename Traits::scalar_t* pooled_;
  const uint8_t* codes_;
  bool vectors_;
  int row_, col_, rows_, cols_;
  // Of the windows that the rectangle touches; a window's number is a pixel's shifted, which rounds down below 0 too.
  int window_rows_, window_cols_;
};

}  // namespace segnet_ext::max_unpool2d_conv2d
