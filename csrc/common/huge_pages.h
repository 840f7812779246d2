// Fewer page faults for large results.
#pragma once

#include <ATen/core/Tensor.h>

namespace segnet_ext {

// Asks the system for huge pages under a CPU tensor that is yet to be written, and returns it. A large result is fresh
// memory, and where every 4 KiB of it is a page fault, those faults take several times as long as the kernel that
// writes it. Does nothing for small tensors, for other devices and on systems that cannot.
at::Tensor with_huge_pages(at::Tensor tensor);

}  // namespace segnet_ext
