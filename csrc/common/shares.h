// Tasks that workers of unequal speed share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

namespace segnet_ext {

// Every worker has a share of consecutive tasks and takes them in their order, so that what one task leaves in its
// caches serves the next. A worker whose share is done takes the last task of the share with most left: processors that
// others use too, or that are not all of one kind, would else wait for the slowest.
class Shares {
 public:
  Shares(int64_t tasks, int64_t workers) : shares_(static_cast<size_t>(workers)) {
    for (int64_t i = 0; i < workers; ++i) {
      shares_[static_cast<size_t>(i)] = {tasks * i / workers, tasks * (i + 1) / workers};
    }
  }

  // Whether there is another task for a worker, and which.
  bool take(int64_t worker, int64_t& task) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Share& own = shares_[static_cast<size_t>(worker)];
    if (own.left() > 0) {
      task = own.begin++;
      return true;
    }
    Share& longest = *std::max_element(shares_.begin(), shares_.end(),
                                       [](const Share& a, const Share& b) { return a.left() < b.left(); });
    if (longest.left() == 0) {
      return false;
    }
    task = --longest.end;
    return true;
  }

 private:
  struct Share {
    int64_t begin, end;

    int64_t left() const { return end - begin; }
  };

  std::mutex mutex_;
  std::vector<Share> shares_;
};

// One of them: `for (int64_t task; worker.take(task);)`.
class Worker {
 public:
  Worker(Shares& shares, int64_t index) : shares_(shares), index_(index) {}

  bool take(int64_t& task) { return shares_.take(index_, task); }

 private:
  Shares& shares_;
  int64_t index_;
};

}  // namespace segnet_ext
