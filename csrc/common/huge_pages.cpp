#include "common/huge_pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace segnet_ext {

at::Tensor with_huge_pages(at::Tensor tensor) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHugePage = 2 * 1024 * 1024;
  if (tensor.is_cpu() && tensor.nbytes() >= 2 * kHugePage) {
    // Only the whole huge pages inside, so that no memory beside the tensor's is touched.
    const auto begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
    const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
    const uintptr_t last = (begin + tensor.nbytes()) / kHugePage * kHugePage;
    // A hint: where it is refused there is nothing to do about it.
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  return tensor;
}

}  // namespace segnet_ext
