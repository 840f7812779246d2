#include "common/map_memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "common/line_array.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace segnet_ext {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;
// What is smaller is left to the heap; of what is larger, a heap may give back to the system what comes free at its
// end, and find and clear it anew for each next tensor.
constexpr size_t kMedium = size_t(512) << 10;
constexpr size_t kLarge = 2 * kHugePage;
// What is held on to for the next tensors, at most: what each step of a training would else have found and cleared
// anew. For those of medium size, whose pages are small, that costs several times as much a byte: large ones, which
// need the memory at another time of the step, must not push them out.
constexpr size_t kKeptMedium = size_t(64) << 20, kKeptLarge = size_t(256) << 20;

}  // namespace

// Memory of tensors that are not small, in blocks that the system maps and takes back whole: in a heap, among tensors
// that stay, those that are gone would be holes, too small for the next one and lost to the system. Tensors hold their
// Blocks, since their memory comes back to it.
class MapReuse::Blocks : public std::enable_shared_from_this<MapReuse::Blocks> {
 public:
  // Of what is free, so many bytes are kept at most, and with what is in use never more than was in use at once.
  explicit Blocks(size_t kept) : kept_(kept) {}
  ~Blocks() { close(); }

  c10::DataPtr allocate(size_t bytes) {
    const Block block = take(bytes);
    if (block.data == nullptr) {
      return c10::GetCPUAllocator()->allocate(bytes);  // or its error
    }
    c10::profiledCPUMemoryReporter().New(block.data, block.bytes);
    return {block.data, new Loan{shared_from_this(), block}, &Loan::end, c10::Device(c10::kCPU)};
  }

  // Gives all that is free back to the system, and forgets how much was ever in use.
  void empty() {
    const std::lock_guard<std::mutex> lock(mutex_);
    most_used_bytes_ = used_bytes_;
    give_back_spare();
  }

  // From now on what comes back is given back to the system.
  void close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
    give_back_spare();
  }

 private:
  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
    void* mapping = nullptr;  // which it lies in
  };
  struct Loan {
    std::shared_ptr<Blocks> blocks;
    Block block;

    static void end(void* loan) {
      const std::unique_ptr<Loan> self(static_cast<Loan*>(loan));
      c10::profiledCPUMemoryReporter().Delete(self->block.data);
      self->blocks->put(self->block);
    }
  };

#if defined(__linux__)
  // From near the beginning of a huge page on; what is mapped beside the block stays untouched, and so takes no memory.
  // Where exactly differs from block to block: maps a power of two apart would compete for a few places of the caches.
  Block new_block(size_t bytes) {
    void* mapping = mmap(nullptr, bytes + kBeside, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) {
      return {};
    }
    const uintptr_t page = (reinterpret_cast<uintptr_t>(mapping) + kHugePage - 1) / kHugePage * kHugePage;
    place_ = (place_ + 1) % kPlaces;
    const size_t shift = place_ * kShift;
#if defined(MADV_HUGEPAGE)
    // A hint: where it is refused there is nothing to do about it.
    madvise(reinterpret_cast<void*>(page), (shift + bytes) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    return {reinterpret_cast<void*>(page + shift), bytes, mapping};
  }
  static void delete_block(Block block) { munmap(block.mapping, block.bytes + kBeside); }
#else  // maps are torch's own
  static Block new_block(size_t) { return {}; }
  static void delete_block(Block) {}
#endif

  // The smallest free block that holds so many bytes and little more, or a new one.
  Block take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      const bool fits = it->bytes >= bytes && it->bytes / 5 * 4 <= bytes;
      if (fits && (best == free_.end() || it->bytes < best->bytes)) {
        best = it;
      }
    }
    Block block;
    if (best != free_.end()) {
      block = *best;
      free_.erase(best);
      free_bytes_ -= block.bytes;
      used_bytes_ += block.bytes;
    } else {
      used_bytes_ += bytes;
      give_back_spare();
      block = new_block(bytes);
      used_bytes_ -= bytes - block.bytes;
    }
    most_used_bytes_ = std::max(most_used_bytes_, used_bytes_);
    return block;
  }

  void put(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(block);
    free_bytes_ += block.bytes;
    used_bytes_ -= block.bytes;
    give_back_spare();
  }

  // What has been free for longest, as far as less is to be kept.
  void give_back_spare() {
    const size_t most = open_ && used_bytes_ < most_used_bytes_ ? std::min(kept_, most_used_bytes_ - used_bytes_) : 0;
    auto end = free_.begin();
    for (; free_bytes_ > most; ++end) {
      delete_block(*end);
      free_bytes_ -= end->bytes;
    }
    free_.erase(free_.begin(), end);
  }

  static constexpr size_t kPlaces = 13, kShift = 78 * kLineBytes, kBeside = kHugePage + kPlaces * kShift;

  const size_t kept_;
  std::mutex mutex_;
  std::vector<Block> free_;  // in the order in which they came back
  size_t free_bytes_ = 0, used_bytes_ = 0, most_used_bytes_ = 0, place_ = 0;
  bool open_ = true;
};

namespace {

using Blocks = MapReuse::Blocks;

// Of the MapReuse that this thread has entered.
std::shared_ptr<Blocks>& entered_blocks() {
  thread_local std::shared_ptr<Blocks> blocks;
  return blocks;
}

// Of all threads.
struct CommonBlocks {
  std::shared_ptr<Blocks> medium = std::make_shared<Blocks>(kKeptMedium);
  std::shared_ptr<Blocks> large = std::make_shared<Blocks>(kKeptLarge);
};
const CommonBlocks& common_blocks() {
  static const auto* const blocks = new CommonBlocks;  // tensors outlive statics
  return *blocks;
}

// What torch asks for memory when it makes or resizes such a tensor.
class MapAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (entered_blocks()) {
      return entered_blocks()->allocate(bytes);
    }
    return (bytes < kLarge ? common_blocks().medium : common_blocks().large)->allocate(bytes);
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

at::Tensor empty_large(at::IntArrayRef sizes, const at::TensorOptions& options, at::MemoryFormat format) {
  const auto bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  if (!options.device().is_cpu() || bytes < kMedium) {
    return at::empty(sizes, options.memory_format(format));
  }
  static MapAllocator allocator;
  return at::Tensor(at::detail::empty_generic(sizes, &allocator, c10::DispatchKeySet(c10::DispatchKey::CPU),
                                              c10::typeMetaToScalarType(options.dtype()), format));
}

void empty_cache() {
  common_blocks().medium->empty();
  common_blocks().large->empty();
}

MapReuse::MapReuse() = default;
MapReuse::~MapReuse() {
  if (blocks_) {
    blocks_->close();
  }
}

void MapReuse::enter() {
  blocks_ = std::make_shared<Blocks>(SIZE_MAX);
  before_ = std::exchange(entered_blocks(), blocks_);
}

void MapReuse::exit() {
  entered_blocks() = std::move(before_);
  std::exchange(blocks_, nullptr)->close();
}

}  // namespace segnet_ext
