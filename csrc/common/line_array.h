// Scratch memory of CPU kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

namespace segnet_ext {

// Bytes of a cache line, and of the widest vectors.
constexpr int64_t kLineBytes = 64;

struct DeleteLines {
  void operator()(void* data) const { ::operator delete(data, std::align_val_t(kLineBytes)); }
};

// An array that starts on a line. From anywhere else, most wide vectors would lie across two lines, which makes each of
// their loads and stores two.
template <class T>
using LineArray = std::unique_ptr<T[], DeleteLines>;

// `count` elements, yet to be written.
template <class T>
LineArray<T> new_lines(int64_t count) {
  static_assert(std::is_arithmetic<T>::value, "nothing is constructed");
  return LineArray<T>(
      static_cast<T*>(::operator new(static_cast<std::size_t>(count) * sizeof(T), std::align_val_t(kLineBytes))));
}

}  // namespace segnet_ext
