#include <cuda_runtime_api.h>

#include "build_info.h"

#define SEGNET_EXT_TEXT_OF(...) #__VA_ARGS__
#define SEGNET_EXT_TEXT(...) SEGNET_EXT_TEXT_OF(__VA_ARGS__)

namespace segnet_ext {

CudaBuildInfo cuda_build_info() {
  return {CUDART_VERSION, SEGNET_EXT_TEXT(__CUDA_ARCH_LIST__)};
}

}  // namespace segnet_ext
