// Memory for the maps that operations return.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

namespace segnet_ext {

// An uninitialised tensor that may be large. On the CPU a large one lies in memory of its own, from a few MiB on in
// huge pages where the system has them: where every 4 KiB of fresh memory is a page fault, those faults take several
// times as long as the kernel that writes it. Some of the memory of those that are gone is kept for the next ones,
// until empty_cache(): of those below and of those from 4 MiB on, never more, with what is in use, than was in use at
// once.
at::Tensor empty_large(at::IntArrayRef sizes, const at::TensorOptions& options, at::MemoryFormat format);
// A channels_last map [N, C, H, W].
inline at::Tensor empty_map(at::IntArrayRef sizes, const at::TensorOptions& options) {
  return empty_large(sizes, options, at::MemoryFormat::ChannelsLast);
}

void empty_cache();

// While one is entered, this thread's large CPU tensors have memory to themselves, and all that comes free is kept: for
// passes without a graph, where two maps are in use at a time and each would be fresh memory otherwise. At the end it
// is given back. Maps outlive it as they like.
class MapReuse {
 public:
  MapReuse();
  ~MapReuse();
  MapReuse(const MapReuse&) = delete;
  MapReuse& operator=(const MapReuse&) = delete;

  void enter();
  void exit();

  class Blocks;

 private:
  std::shared_ptr<Blocks> blocks_, before_;
};

}  // namespace segnet_ext
