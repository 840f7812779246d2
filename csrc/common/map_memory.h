// Memory for the maps that operations return.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

namespace segnet_ext {

// An uninitialised channels_last map [N, C, H, W]. A large one on the CPU gets huge pages where the system has them:
// where every 4 KiB of fresh memory is a page fault, those faults take several times as long as the kernel that writes
// the map.
at::Tensor empty_map(at::IntArrayRef sizes, const at::TensorOptions& options);

// While one is entered, large CPU maps that this thread's operations return lie in memory of earlier ones that are
// gone: for passes without a graph, each of whose maps would be fresh memory otherwise, found and cleared by the system
// page by page. What is free then is given back before more is asked for, and at the end. Maps outlive it as they like.
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
