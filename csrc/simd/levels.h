// SIMD levels: every kernel is compiled once for each, and the widest that the processor has is chosen at run time.
#pragma once

#include <string>
#include <vector>

#ifndef SEGNET_HAS_X86_LEVELS
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SEGNET_HAS_X86_LEVELS 1
#else
#define SEGNET_HAS_X86_LEVELS 0
#endif
#endif

namespace segnet_ext::simd {

enum class Level { kPortable, kAvx2, kAvx512 };

// The level in use: the widest one this processor runs, or the one that the environment variable SEGNET_EXT_SIMD names.
// Throws std::runtime_error when that names a level that is not built or not supported here. Read once.
Level level();

const char* level_name(Level level);
std::vector<std::string> built_levels();
std::vector<std::string> supported_levels();

}  // namespace segnet_ext::simd
