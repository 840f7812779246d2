// What this library was built from and with, for segnet_ext.build_info().
#pragma once

#include <string>

namespace segnet_ext {

struct BuildInfo {
  std::string compiler;    // name and version
  std::string flags;       // of the C++ files
  std::string torch;       // the version compiled against, such as 2.13.0+cpu
  std::string python;      // the version compiled for
  std::string cuda;        // the toolkit's version; empty in a build without CUDA
  std::string cuda_archs;  // compute capabilities with machine code, such as 7.5;8.0; empty in a build without CUDA
  bool debug;              // assertions are on
  bool cxx11_abi;          // std::string and std::list are those of the C++11 ABI
};

BuildInfo build_info();

}  // namespace segnet_ext
