#include "build_info.h"

#include <sstream>

#if !defined(SEGNET_EXT_CXX_FLAGS) || !defined(SEGNET_EXT_TORCH_VERSION) || !defined(SEGNET_EXT_PYTHON_VERSION)
#error "the build must define SEGNET_EXT_CXX_FLAGS, SEGNET_EXT_TORCH_VERSION and SEGNET_EXT_PYTHON_VERSION"
#endif

namespace segnet_ext {
namespace {

std::string compiler_name() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#else
  return "unknown";
#endif
}

#ifdef SEGNET_EXT_WITH_CUDA
// From 13000 to 13.0.
std::string cuda_version_text(int version) {
  std::ostringstream out;
  out << version / 1000 << '.' << version % 1000 / 10;
  return out.str();
}

// From 750,1200 to 7.5;12.0, as TORCH_CUDA_ARCH_LIST is written.
std::string cuda_archs_text(const std::string& archs) {
  std::istringstream in(archs);
  std::ostringstream out;
  const char* separator = "";
  for (std::string arch; std::getline(in, arch, ',');) {
    const int number = std::stoi(arch);
    out << separator << number / 100 << '.' << number % 100 / 10;
    separator = ";";
  }
  return out.str();
}
#endif

}  // namespace

BuildInfo build_info() {
  BuildInfo info;
  info.compiler = compiler_name();
  info.flags = SEGNET_EXT_CXX_FLAGS;
  info.torch = SEGNET_EXT_TORCH_VERSION;
  info.python = SEGNET_EXT_PYTHON_VERSION;
#ifdef SEGNET_EXT_WITH_CUDA
  const CudaBuildInfo cuda = cuda_build_info();
  info.cuda = cuda_version_text(cuda.version);
  info.cuda_archs = cuda_archs_text(cuda.archs);
#endif
#ifdef NDEBUG
  info.debug = false;
#else
  info.debug = true;
#endif
#if defined(_GLIBCXX_USE_CXX11_ABI) && _GLIBCXX_USE_CXX11_ABI == 0
  info.cxx11_abi = false;
#else
  info.cxx11_abi = true;
#endif
  return info;
}

}  // namespace segnet_ext
