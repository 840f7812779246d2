// How sums over parts of a map are brought together: a block has kMergeRows threads for each of kMergeChannels
// channels, 32 or 64 bytes of a row of partial sums.
#pragma once

#include "common/tiling.cuh"

namespace segnet_ext::cuda {

constexpr int kMergeChannels = 8;
constexpr int kMergeRows = 64;
constexpr int kMergeThreads = kMergeChannels * kMergeRows;
constexpr int kMergeLoads = 4;  // parts that a thread reads at a time

inline LaunchConfig merge_config(int64_t channels, size_t bytes_per_thread) {
  return {dim3(grid_size(ceil_div(channels, kMergeChannels))), dim3(kMergeThreads), bytes_per_thread * kMergeThreads};
}

// Which channel and parts the calling thread merges: item, item + kMergeRows, ... below end.
struct MergePlace {
  int row;
  int64_t channel, item, end;

  SEGNET_DEVICE explicit MergePlace(int64_t parts)
      : row(static_cast<int>(threadIdx.x) / kMergeChannels),
        channel(static_cast<int64_t>(blockIdx.x) * kMergeChannels + static_cast<int>(threadIdx.x) % kMergeChannels),
        item(row),
        end(parts) {}
};

}  // namespace segnet_ext::cuda
