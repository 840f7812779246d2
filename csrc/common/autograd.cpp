#include "common/autograd.h"

#include <ATen/ops/threshold_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <string>

namespace segnet_ext {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Gradients : torch::autograd::Function<Gradients> {
  static variable_list forward(AutogradContext* context, at::TensorList, const char* op,
                               const std::function<std::vector<at::Tensor>()>& make) {
    context->saved_data["op"] = std::string(op);
    return make();
  }
  static variable_list backward(AutogradContext* context, const variable_list&) {
    TORCH_CHECK(false, context->saved_data["op"].toStringRef(), ": second derivatives are not implemented");
  }
};

}  // namespace

std::vector<at::Tensor> make_gradients(const char* op, std::initializer_list<OptionalTensor> of,
                                       const std::function<std::vector<at::Tensor>()>& make) {
  if (!at::GradMode::is_enabled()) {
    return make();
  }
  variable_list given;
  for (const OptionalTensor& tensor : of) {
    if (tensor) {
      given.push_back(*tensor);
    }
  }
  return Gradients::apply(at::TensorList(given), op, make);
}

at::Tensor convolution_grad(const at::Tensor& grad_output, const at::Tensor& output) {
  const at::Tensor grad = output.defined() ? at::threshold_backward(grad_output, output, 0) : grad_output;
  return grad.contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace segnet_ext
