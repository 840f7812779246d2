#include "simd/levels.h"

#if SEGNET_HAS_X86_LEVELS
#include <cpuid.h>
#endif

#include <cstdlib>
#include <stdexcept>

namespace segnet_ext::simd {
namespace {

const std::vector<Level>& built() {
#if SEGNET_HAS_X86_LEVELS
  static const std::vector<Level> levels{Level::kPortable, Level::kAvx2, Level::kAvx512};
#else
  static const std::vector<Level> levels{Level::kPortable};
#endif
  return levels;
}

#if SEGNET_HAS_X86_LEVELS
// GCC's __builtin_cpu_supports knows it from version 11 on only.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool supported(Level level) {
#if SEGNET_HAS_X86_LEVELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  switch (level) {
    case Level::kPortable:
      return true;
    case Level::kAvx2:
      return avx2;
    case Level::kAvx512:
      return avx2 && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
  }
#endif
  return level == Level::kPortable;
}

Level choose() {
  Level widest = Level::kPortable;
  std::string names;
  const char* forced = std::getenv("SEGNET_EXT_SIMD");
  for (const Level level : built()) {
    if (!supported(level)) {
      continue;
    }
    if (forced != nullptr && std::string(forced) == level_name(level)) {
      return level;
    }
    widest = level;
    names += (names.empty() ? "" : ", ") + std::string(level_name(level));
  }
  if (forced != nullptr && *forced != '\0') {
    throw std::runtime_error("SEGNET_EXT_SIMD must be one of " + names + " on this machine, got '" + forced + "'");
  }
  return widest;
}

}  // namespace

Level level() {
  static const Level chosen = choose();
  return chosen;
}

const char* level_name(Level level) {
  switch (level) {
    case Level::kAvx2:
      return "avx2";
    case Level::kAvx512:
      return "avx512";
    default:
      return "portable";
  }
}

std::vector<std::string> built_levels() {
  std::vector<std::string> names;
  for (const Level level : built()) {
    names.emplace_back(level_name(level));
  }
  return names;
}

std::vector<std::string> supported_levels() {
  std::vector<std::string> names;
  for (const Level level : built()) {
    if (supported(level)) {
      names.emplace_back(level_name(level));
    }
  }
  return names;
}

}  // namespace segnet_ext::simd
