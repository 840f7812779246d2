#include "common/tf32.h"

#include <ATen/Context.h>
#include <torch/version.h>

namespace segnet_ext {

bool allow_tf32() {
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 9
  return at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);  // unnamed, it must agree with recurrent networks'
#else
  return at::globalContext().allowTF32CuDNN();
#endif
}

}  // namespace segnet_ext
