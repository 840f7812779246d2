// Tasks that workers share: each is taken once, a worker's own in their order, and a fast worker helps the others out.
#include "common/shares.h"

#include "testing.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

// What a worker takes that has nobody beside it.
std::vector<int64_t> all_of(Shares& shares, int64_t index) {
  Worker worker(shares, index);
  std::vector<int64_t> tasks;
  for (int64_t task; worker.take(task);) {
    tasks.push_back(task);
  }
  return tasks;
}

void order() {
  Shares shares(8, 3);  // of two, three and three
  CHECK((all_of(shares, 1) == std::vector<int64_t>{2, 3, 4, 7, 1, 6, 0, 5}), "its own, then the last of the longest");
  CHECK(all_of(shares, 0).empty() && all_of(shares, 2).empty(), "nothing is left");
  Shares alone(3, 1), none(0, 2), few(1, 2);
  CHECK((all_of(alone, 0) == std::vector<int64_t>{0, 1, 2}), "in their order");
  CHECK(all_of(none, 1).empty(), "no tasks");
  CHECK(all_of(few, 0) == std::vector<int64_t>{0}, "a worker without a share");
}

void each_task_once() {
  Random random(1);
  for (int i = 0; i < 50; ++i) {
    const int64_t tasks = draw(random, 0, 200), threads = draw(random, 1, 5);
    std::vector<int> taken(static_cast<size_t>(tasks));  // by one thread each, or the sanitizer tells
    on_workers(tasks, threads, [&](Worker& worker) {
      for (int64_t task; worker.take(task);) {
        ++taken[static_cast<size_t>(task)];
      }
    });
    CHECK(std::count(taken.begin(), taken.end(), 1) == tasks, "%d tasks", static_cast<int>(tasks));
  }
}

}  // namespace

int main() {
  order();
  each_task_once();
  return 0;
}
