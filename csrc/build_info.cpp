#include "build_info.h"

#ifdef SEGNET_EXT_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

#include <sstream>

#if !defined(SEGNET_EXT_CXX_FLAGS) || !defined(SEGNET_EXT_TORCH_VERSION) || !defined(SEGNET_EXT_PYTHON_VERSION)
#error "the build must define SEGNET_EXT_CXX_FLAGS, SEGNET_EXT_TORCH_VERSION and SEGNET_EXT_PYTHON_VERSION"
#endif
#if defined(SEGNET_EXT_WITH_CUDA) && !defined(SEGNET_EXT_CUDA_ARCHS)
#error "a build with CUDA must define SEGNET_EXT_CUDA_ARCHS"
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
#endif

}  // namespace

BuildInfo build_info() {
  BuildInfo info;
  info.compiler = compiler_name();
  info.flags = SEGNET_EXT_CXX_FLAGS;
  info.torch = SEGNET_EXT_TORCH_VERSION;
  info.python = SEGNET_EXT_PYTHON_VERSION;
#ifdef SEGNET_EXT_WITH_CUDA
  info.cuda = cuda_version_text(CUDART_VERSION);
  info.cuda_archs = SEGNET_EXT_CUDA_ARCHS;
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
