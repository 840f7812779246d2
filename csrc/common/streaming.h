// When to write past the caches.
#pragma once

#include <cstdint>

#include "common/line_array.h"

namespace segnet_ext {

// A map of this size fills, with those that it is made from, what a processor can count on of a last-level cache that
// it shares with others: it will have left the caches by the time that it is read.
constexpr int64_t kStreamBytes = int64_t(4) << 20;

// Whether to write a map of `rows` rows past the caches, `written_bytes` of a row at a time: whole lines only, as lines
// that are under way in halves wait for each other, which takes longer than the caches do.
inline bool streams(const void* map, int64_t rows, int64_t row_bytes, int64_t written_bytes) {
  return rows * row_bytes >= kStreamBytes && row_bytes % kLineBytes == 0 && written_bytes % kLineBytes == 0 &&
         reinterpret_cast<uintptr_t>(map) % kLineBytes == 0;
}

}  // namespace segnet_ext
