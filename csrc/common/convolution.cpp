#include "common/convolution.h"

#include <ATen/Context.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/cudnn_convolution_relu.h>
#include <ATen/ops/empty.h>

#include <mutex>
#include <tuple>

namespace segnet_ext {
namespace {

// torch's switch is one for all threads, and backward has a thread for each device: one at a time sets it and puts it
// back. That is for the moment of a launch, not of the computation.
class DeterministicCudnn {
 public:
  static std::mutex& mutex() {
    static std::mutex only;
    return only;
  }

  DeterministicCudnn() : lock_(mutex()), before_(at::globalContext().deterministicCuDNN()) {
    at::globalContext().setDeterministicCuDNN(true);
  }
  ~DeterministicCudnn() { at::globalContext().setDeterministicCuDNN(before_); }
  DeterministicCudnn(const DeterministicCudnn&) = delete;
  DeterministicCudnn& operator=(const DeterministicCudnn&) = delete;

 private:
  std::lock_guard<std::mutex> lock_;
  bool before_;
};

at::Tensor convolution(const at::Tensor& map, const at::Tensor& weight, bool transposed) {
  const DeterministicCudnn guard;
  const int64_t padding = weight.size(2) / 2;
  return at::convolution(map, weight, std::nullopt, /*stride=*/{1, 1}, {padding, padding}, /*dilation=*/{1, 1},
                         transposed, /*output_padding=*/{0, 0}, /*groups=*/1)
      .contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace

bool wants_determinism() {
  const std::lock_guard<std::mutex> lock(DeterministicCudnn::mutex());  // or the switch may be set from here
  return at::globalContext().deterministicCuDNN() || at::globalContext().deterministicAlgorithms();
}

at::Tensor convolve(const at::Tensor& map, const at::Tensor& weight) {
  return convolution(map, weight, /*transposed=*/false);
}

at::Tensor convolve_bias_relu(const at::Tensor& map, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t padding = weight.size(2) / 2;
  return at::cudnn_convolution_relu(map, weight, bias, /*stride=*/{1, 1}, {padding, padding}, /*dilation=*/{1, 1},
                                    /*groups=*/1)
      .contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor convolve_grad_map(const at::Tensor& grad_output, const at::Tensor& weight) {
  return convolution(grad_output, weight, /*transposed=*/true);
}

at::Tensor convolve_grad_weight(const at::Tensor& grad_output, const at::Tensor& map, int64_t kernel_size) {
  const DeterministicCudnn guard;
  const int64_t padding = kernel_size / 2;
  // Of the weight, the gradient needs the sizes and the layout, that of the maps.
  const at::Tensor like = at::empty({grad_output.size(1), map.size(1), kernel_size, kernel_size},
                                    map.options().memory_format(at::MemoryFormat::ChannelsLast));
  return std::get<1>(at::convolution_backward(grad_output, map, like, std::nullopt, /*stride=*/{1, 1},
                                              {padding, padding}, /*dilation=*/{1, 1}, /*transposed=*/false,
                                              /*output_padding=*/{0, 0}, /*groups=*/1, {false, true, false}));
}

}  // namespace segnet_ext
