#include "common/map_memory.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace segnet_ext {

// The free blocks of memory of a MapReuse. Tensors hold it, since their memory comes back to it.
class MapReuse::Blocks : public std::enable_shared_from_this<MapReuse::Blocks> {
 public:
  ~Blocks() { give_back(); }

  at::Tensor map(at::IntArrayRef sizes, const at::TensorOptions& options, size_t bytes) {
    const Block block = take(bytes);
    if (block.data == nullptr) {
      return {};
    }
    const int64_t c = sizes[1], h = sizes[2], w = sizes[3];
    auto release = [blocks = shared_from_this(), block](void*) { blocks->put(block); };
    return at::from_blob(block.data, sizes, {h * w * c, 1, w * c, c}, std::move(release),
                         options.memory_format(std::nullopt));
  }

  // From now on what comes back is given back to the system.
  void close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
    give_back();
  }

 private:
  struct Block {
    void* data;
    size_t bytes;
  };

  // The smallest free block that holds so many bytes without wasting most of it, or a new one.
  Block take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      const bool fits = it->bytes >= bytes && it->bytes / 4 <= bytes;
      if (fits && (best == free_.end() || it->bytes < best->bytes)) {
        best = it;
      }
    }
    if (best != free_.end()) {
      const Block block = *best;
      free_.erase(best);
      return block;
    }
    give_back();
#if defined(__linux__)
    void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return {data == MAP_FAILED ? nullptr : data, bytes};
#else
    return {nullptr, 0};
#endif
  }

  void put(Block block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(block);
    if (!open_) {
      give_back();
    }
  }

  void give_back() {
#if defined(__linux__)
    for (const Block& block : free_) {
      munmap(block.data, block.bytes);
    }
#endif
    free_.clear();
  }

  std::mutex mutex_;
  std::vector<Block> free_;
  bool open_ = true;
};

namespace {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kLargeMap = 2 * kHugePage;

std::shared_ptr<MapReuse::Blocks>& current_blocks() {
  thread_local std::shared_ptr<MapReuse::Blocks> blocks;
  return blocks;
}

void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
  // Only the whole huge pages inside, so that no memory beside the map's is touched.
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage,
                  last = (begin + bytes) / kHugePage * kHugePage;
  // A hint: where it is refused there is nothing to do about it.
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace

at::Tensor empty_map(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const auto bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  const bool large = options.device().is_cpu() && bytes >= kLargeMap;
  at::Tensor map;
  if (large && current_blocks()) {
    map = current_blocks()->map(sizes, options, bytes);
  }
  if (!map.defined()) {
    map = at::empty(sizes, options.memory_format(at::MemoryFormat::ChannelsLast));
  }
  if (large) {
    ask_for_huge_pages(map.mutable_data_ptr(), bytes);
  }
  return map;
}

MapReuse::MapReuse() = default;
MapReuse::~MapReuse() {
  if (blocks_) {
    blocks_->close();
  }
}

void MapReuse::enter() {
  blocks_ = std::make_shared<Blocks>();
  before_ = std::exchange(current_blocks(), blocks_);
}

void MapReuse::exit() {
  current_blocks() = std::move(before_);
  std::exchange(blocks_, nullptr)->close();
}

}  // namespace segnet_ext
