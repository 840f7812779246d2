// at::parallel_for with the work split as finely as the kernels' own tasks allow.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "common/shares.h"

namespace segnet_ext {

// Elements a task must touch to be worth a thread.
constexpr int64_t kGrainElements = 16 * 1024;

// Runs body(begin, end) over [0, tasks); `elements_per_task` is about how many elements one task touches.
template <class Body>
void parallel_tasks(int64_t tasks, int64_t elements_per_task, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, elements_per_task));
  at::parallel_for(0, tasks, grain, body);
}

// For tasks that take long: calls body(worker) on as many threads as have something to do, each of which takes tasks of
// [0, tasks) until none is left.
template <class Body>
void parallel_workers(int64_t tasks, const Body& body) {
  const int64_t workers = std::min<int64_t>(tasks, at::get_num_threads());
  Shares shares(tasks, workers);
  at::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Worker worker(shares, i);
      body(worker);
    }
  });
}

}  // namespace segnet_ext
