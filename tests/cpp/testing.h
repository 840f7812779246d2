// What the test programs share: a check that ends the program, exact buffers, element types, one run for each SIMD
// level.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "common/shares.h"
#include "segnet_ext/codes.h"
#include "segnet_ext/dtypes.h"
#include "simd/levels.h"

#define CHECK(condition, ...)                                                       \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: %s is false: ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                            \
      std::fprintf(stderr, "\n");                                                   \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)

namespace segnet_ext::testing {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuard = 0;  // the sanitizer puts its own zones around the allocation
#else
constexpr size_t kGuard = 64;
#endif

// `size` elements and not one more: a write before or behind them is found when the buffer is checked or destroyed.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(static_cast<size_t>(size)), bytes_(new uint8_t[bytes() + 2 * kGuard]) {
    std::memset(bytes_.get(), 0xa5, bytes() + 2 * kGuard);
  }
  Buffer(Buffer&&) = default;
  ~Buffer() {
    for (size_t i = 0; bytes_ && i < kGuard; ++i) {
      CHECK(bytes_[i] == 0xa5, "a write %zu bytes before a buffer", kGuard - i);
      CHECK(bytes_[kGuard + bytes() + i] == 0xa5, "a write %zu bytes behind a buffer", i);
    }
  }

  T* data() { return reinterpret_cast<T*>(bytes_.get() + kGuard); }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.get() + kGuard); }
  T& operator[](int64_t i) { return data()[i]; }
  const T& operator[](int64_t i) const { return data()[i]; }
  int64_t size() const { return static_cast<int64_t>(size_); }
  bool same_bytes(const Buffer& other) const {
    return size_ == other.size_ && std::memcmp(data(), other.data(), bytes()) == 0;
  }

 private:
  size_t bytes() const { return size_ * sizeof(T); }

  size_t size_;
  std::unique_ptr<uint8_t[]> bytes_;
};

using Random = std::mt19937;

inline int64_t draw(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

inline Buffer<uint8_t> random_bytes(int64_t size, Random& random) {
  Buffer<uint8_t> buffer(size);
  for (int64_t i = 0; i < size; ++i) {
    buffer[i] = static_cast<uint8_t>(draw(random, 0, 255));
  }
  return buffer;
}

// The element types by name of their DType, with exact conversions of small integers.
template <class T>
struct Element;
template <>
struct Element<float> {
  static constexpr DType kDType = DType::kFloat;
  static float of(double value) { return static_cast<float>(value); }
  static double value(float x) { return x; }
};
template <>
struct Element<double> {
  static constexpr DType kDType = DType::kDouble;
  static double of(double value) { return value; }
  static double value(double x) { return x; }
};
template <>
struct Element<bfloat16> {
  static constexpr DType kDType = DType::kBFloat16;
  static bfloat16 of(double value) {
    const auto x = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    CHECK((bits & 0xffffu) == 0, "%g has no exact bfloat16", value);
    return {static_cast<uint16_t>(bits >> 16)};
  }
  static double value(bfloat16 x) {
    const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
    float result;
    std::memcpy(&result, &bits, sizeof(result));
    return result;
  }
};
template <>
struct Element<half> {
  static constexpr DType kDType = DType::kHalf;
  static half of(double value) {
    if (value == 0) {
      return {static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0)};
    }
    int exponent;
    const double fraction = std::frexp(std::abs(value), &exponent) * 2048;  // in [1024, 2048)
    CHECK(fraction == std::floor(fraction) && exponent >= -13 && exponent <= 16, "%g has no exact normal half", value);
    const int bits = (exponent + 14) << 10 | (static_cast<int>(fraction) - 1024);
    return {static_cast<uint16_t>(bits | (value < 0 ? 0x8000 : 0))};
  }
  static double value(half x) {
    const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    double magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) {
      magnitude = mantissa == 0 ? INFINITY : NAN;
    }
    return x.bits & 0x8000 ? -magnitude : magnitude;
  }
};

// Integers low..high: exact in every type, with many ties.
template <class T>
Buffer<T> integers(int64_t size, Random& random, int64_t low = -2, int64_t high = 2) {
  Buffer<T> buffer(size);
  for (int64_t i = 0; i < size; ++i) {
    buffer[i] = Element<T>::of(static_cast<double>(draw(random, low, high)));
  }
  return buffer;
}

// The code of channel c of a window, clipped to a map of height x width, by the definition.
inline void winner_of(const uint8_t* bytes, int64_t c, int64_t oh, int64_t ow, int64_t height, int64_t width,
                      int64_t& row, int64_t& col) {
  const int code = bytes[c / 4] >> 2 * (c % 4) & 3;
  row = std::min<int64_t>(2 * oh + (code >> 1), height - 1);
  col = std::min<int64_t>(2 * ow + (code & 1), width - 1);
}

// Runs body(begin, end) over [0, count) cut into `threads` pieces, each on a thread of its own.
template <class Body>
void on_threads(int64_t count, int64_t threads, const Body& body) {
  std::vector<std::thread> running;
  for (int64_t t = 0; t < threads; ++t) {
    running.emplace_back([&, t] { body(count * t / threads, count * (t + 1) / threads); });
  }
  for (auto& thread : running) {
    thread.join();
  }
}

// Calls body(worker) on threads that share [0, tasks).
template <class Body>
void on_workers(int64_t tasks, int64_t threads, const Body& body) {
  Shares shares(tasks, threads);
  on_threads(threads, threads, [&](int64_t begin, int64_t) {
    Worker worker(shares, begin);
    body(worker);
  });
}

template <class Test>
void for_every_dtype(const Test& test) {
  test(Element<float>{}, float{});
  test(Element<double>{}, double{});
  test(Element<bfloat16>{}, bfloat16{});
  test(Element<half>{}, half{});
}

// Runs the test once at each SIMD level of this machine, each in a process of its own: the level is chosen once.
inline int at_every_level(void (*test)()) {
  for (const std::string& level : simd::supported_levels()) {
    std::fflush(nullptr);  // or the child prints what is buffered again
    const pid_t child = fork();
    CHECK(child >= 0, "no process for level %s", level.c_str());
    if (child == 0) {
      setenv("SEGNET_EXT_SIMD", level.c_str(), 1);
      test();
      std::exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child, "no status of level %s", level.c_str());
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "failed at level %s", level.c_str());
    std::printf("%s: ok\n", level.c_str());
  }
  return 0;
}

}  // namespace segnet_ext::testing
