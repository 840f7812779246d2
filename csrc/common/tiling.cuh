// How kernels over channels_last maps are cut into threads. An item is what the kernel walks over: a pixel or a pooling
// window. A thread has a group of neighbouring channels, 16 bytes of a map, and keeps to it for several items, so that
// it loads what belongs to a channel once. Where channels cannot be accessed 16 bytes at a time, a group is as small as
// it can be, so that neighbouring threads still read neighbouring addresses. A block has a tile of such groups and
// works on `rows` items at a time:
//
//   threadIdx.x = row * groups + group
//
// A tile is at most a warp's worth of groups: neighbouring threads read neighbouring addresses, and all warps are full
// however few channels, rows or columns the map has.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/convert.cuh"
#include "cuda/dispatch.h"
#include "cuda/launch.h"
#include "cuda/vector.cuh"
#include "segnet_ext/codes.h"

namespace segnet_ext::cuda {

constexpr int kTileThreads = 256;
constexpr int kTileGroups = kWarpSize;

// Items that a thread gets.
struct ItemsPerThread {
  int64_t least, most;
};

// Channels of a group that is accessed by vectors (whole): at least the four whose codes share a byte.
template <class scalar_t>
constexpr int kVectorChannels = sizeof(scalar_t) < 4 ? kVectorBytes / static_cast<int>(sizeof(scalar_t)) : 4;
// Channels of a thread that walks over pixels, and of one that walks over windows, which reads or writes codes.
template <class scalar_t, bool kWhole>
constexpr int kPixelChannels = kWhole ? kVectorChannels<scalar_t> : 1;
template <class scalar_t, bool kWhole>
constexpr int kWindowChannels = kWhole ? kVectorChannels<scalar_t> : static_cast<int>(kCodesPerByte);

// Every block of a kernel that sums over its items costs a reduction and a part to be merged. BatchNorm's get this
// share of the threads that would fill the device, two blocks to a multiprocessor, and more loads under way a thread.
constexpr int64_t kSumShare = 4;

// By sizes alone, so that sums over the items of a block do not depend on the device.
struct Tiling {
  int64_t items, items_per_block, blocks;  // blocks of each tile of channels
  unsigned tiles;
  int groups, rows;

  LaunchConfig config(size_t shared_bytes = 0) const {
    return {dim3(grid_size(blocks * tiles)), dim3(static_cast<unsigned>(groups * rows)), shared_bytes};
  }
};

inline Tiling make_tiling(int64_t items, int64_t channels, int group_channels, const ItemsPerThread& limits,
                          int64_t threads_to_fill) {
  const int64_t groups = ceil_div(channels, group_channels);
  Tiling t{};
  t.items = items;
  t.tiles = grid_size(ceil_div(groups, kTileGroups));
  t.groups = static_cast<int>(ceil_div(groups, t.tiles));  // tiles of equal size, not one narrow tile at the end
  t.rows = static_cast<int>(std::min<int64_t>(kTileThreads / t.groups, items));
  const int64_t items_per_thread = items / std::max<int64_t>(1, threads_to_fill / groups);
  t.items_per_block = t.rows * std::clamp(items_per_thread, limits.least, limits.most);
  t.blocks = ceil_div(items, t.items_per_block);
  return t;
}

// Parts that a sum over all items may be cut into, whether groups are whole or not: the blocks of
// tiling(element, whole), called with an element of dtype and with std::true_type or std::false_type.
template <class MakeTiling>
int64_t most_parts(DType dtype, const MakeTiling& tiling) {
  int64_t parts = 0;
  call_for_dtype(dtype, [&](auto element) {
    parts = std::max(tiling(element, std::true_type{}).blocks, tiling(element, std::false_type{}).blocks);
  });
  return parts;
}

// A kernel's own parameters and how it is cut.
template <class Params>
struct Tiled {
  Params op;
  Tiling tiling;
};

// Are all of these null or aligned to `bytes`?
inline bool are_aligned(std::initializer_list<const void*> pointers, size_t bytes) {
  return std::all_of(pointers.begin(), pointers.end(),
                     [&](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; });
}

// Can threads access their channels of each map and vector in `maps`, and of `codes`, by vectors?
template <class scalar_t>
bool fits_vectors(int64_t channels, std::initializer_list<const void*> maps, const uint8_t* codes = nullptr) {
  constexpr int kChannels = kVectorChannels<scalar_t>;
  return channels % kChannels == 0 && are_aligned(maps, kVectorBytes) &&
         are_aligned({codes}, kChannels / kCodesPerByte);
}

// Which channels and items the calling thread works on: item, item + rows, ... below end.
template <int kChannels>
struct TilePlace {
  int row;
  int64_t channel, item, end;

  SEGNET_DEVICE explicit TilePlace(const Tiling& t) {
    const unsigned block = blockIdx.x / t.tiles, tile = blockIdx.x % t.tiles;
    row = static_cast<int>(threadIdx.x) / t.groups;
    const int group = static_cast<int>(threadIdx.x) - row * t.groups;
    channel = (static_cast<int64_t>(tile) * t.groups + group) * kChannels;
    const int64_t first = block * t.items_per_block;
    item = first + row;
    end = first + t.items_per_block < t.items ? first + t.items_per_block : t.items;
  }
};

// Calls use(item, load(item)) for the calling thread's items in order. The loads of kLoads items are under way
// together.
template <int kLoads, class Place, class Load, class Use>
SEGNET_DEVICE void walk_items(const Place& place, int rows, const Load& load, const Use& use) {
  using Loaded = decltype(load(place.item));
  for (int64_t item = place.item; item < place.end; item += kLoads * rows) {
    Loaded loaded[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t next = item + i * rows;
      loaded[i] = load(next < place.end ? next : item);  // past the end once more, from the cache
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      if (item + i * rows < place.end) {
        use(item + i * rows, loaded[i]);
      }
    }
  }
}

// Accesses to the kChannels channels from one on, of which `count` exist. With kWhole all of them exist, here and in
// every thread, and are aligned; otherwise they are read and written one by one, and those past the end read as zero.
template <int kChannels, bool kWhole>
class ChannelGroup {
 public:
  SEGNET_DEVICE explicit ChannelGroup(int64_t count)
      : count_(count < 0 ? 0 : (count < kChannels ? static_cast<int>(count) : kChannels)) {}

  SEGNET_DEVICE bool exists() const { return count_ > 0; }
  SEGNET_DEVICE bool has(int i) const { return kWhole || i < count_; }

  template <class T>
  SEGNET_DEVICE Vector<T, kChannels> load(const T* from) const {
    if constexpr (kWhole) {
      return load_vector<kChannels>(from);
    } else {
      Vector<T, kChannels> vector{};
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        if (has(i)) {
          vector[i] = from[i];
        }
      }
      return vector;
    }
  }
  template <class T>
  SEGNET_DEVICE void store(T* to, const Vector<T, kChannels>& vector) const {
    if constexpr (kWhole) {
      store_vector(to, vector);
    } else {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        if (has(i)) {
          to[i] = vector[i];
        }
      }
    }
  }

  // The group's code bytes as one number: the code of channel i in bits 2 * i.
  SEGNET_DEVICE unsigned load_codes(const uint8_t* from) const {
    Vector<uint8_t, kCodeBytes> bytes{};
    if constexpr (kWhole) {
      bytes = load_vector<kCodeBytes>(from);
    } else {
#pragma unroll
      for (int b = 0; b < kCodeBytes; ++b) {
        if (has(b * kPerByte)) {
          bytes[b] = from[b];
        }
      }
    }
    unsigned codes = 0;
#pragma unroll
    for (int b = 0; b < kCodeBytes; ++b) {
      codes |= static_cast<unsigned>(bytes[b]) << 8 * b;
    }
    return codes;
  }
  SEGNET_DEVICE void store_codes(uint8_t* to, unsigned codes) const {
    Vector<uint8_t, kCodeBytes> bytes;
#pragma unroll
    for (int b = 0; b < kCodeBytes; ++b) {
      bytes[b] = static_cast<uint8_t>(codes >> 8 * b);
    }
    if constexpr (kWhole) {
      store_vector(to, bytes);
    } else {
#pragma unroll
      for (int b = 0; b < kCodeBytes; ++b) {
        if (has(b * kPerByte)) {
          to[b] = bytes[b];
        }
      }
    }
  }

 private:
  static constexpr int kPerByte = static_cast<int>(kCodesPerByte);
  static constexpr int kCodeBytes = kChannels / kPerByte;

  int count_;
};

// Bytes of shared memory that reduce_rows needs for n values of T a thread.
template <class T, int n>
constexpr size_t reduce_bytes(int threads) {
  return sizeof(T) * n * static_cast<size_t>(threads);
}

// Merges the values of the rows of a block into those of row 0: merge(other), where other(i) is value i of a later row,
// adds it to the thread's own; pair by pair in an order that depends on the number of rows alone. Every thread of the
// block must call it.
template <class T, int n, class Merge>
SEGNET_DEVICE void reduce_rows(const T (&values)[n], int row, int rows, T* shared, const Merge& merge) {
  const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
  const int row_threads = threads / rows;
  for (int active = rows; active > 1;) {
    const int kept = (active + 1) / 2;
    if (row >= kept && row < active) {
#pragma unroll
      for (int i = 0; i < n; ++i) {
        shared[i * threads + thread] = values[i];
      }
    }
    __syncthreads();
    if (row + kept < active) {
      const T* from = shared + thread + kept * row_threads;
      merge([&](int i) { return from[i * threads]; });
    }
    active = kept;  // the next rows to be stored lie below the ones just read
  }
}

}  // namespace segnet_ext::cuda
