#include "max_pool2d_with_codes/max_pool2d_with_codes_autograd.h"

#include <torch/csrc/autograd/custom_function.h>

#include "common/autograd.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"

namespace segnet_ext {
namespace max_pool2d_with_codes_graph {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Forward : torch::autograd::Function<Forward> {
  static variable_list forward(AutogradContext* context, const at::Tensor& input, bool ceil_mode) {
    auto [output, codes] = max_pool2d_with_codes_forward(input, ceil_mode);
    context->save_for_backward({codes});
    context->saved_data["height"] = input.size(2);
    context->saved_data["width"] = input.size(3);
    context->set_materialize_grads(false);
    context->mark_non_differentiable({codes});
    return {output, codes};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(2);
    if (grads[0].defined()) {
      const at::Tensor codes = context->get_saved_variables()[0];
      const int64_t height = context->saved_data["height"].toInt(), width = context->saved_data["width"].toInt();
      result[0] = make_gradients("max_pool2d_with_codes", {grads[0]}, [&] {
        return variable_list{max_pool2d_with_codes_backward(grads[0], codes, height, width)};
      })[0];
    }
    return result;
  }
};

}  // namespace
}  // namespace max_pool2d_with_codes_graph

std::tuple<at::Tensor, at::Tensor> max_pool2d_with_codes_call(const at::Tensor& input, bool ceil_mode) {
  if (!records_graph(OptionalTensor(input))) {
    return max_pool2d_with_codes_forward(input, ceil_mode);
  }
  const auto results = max_pool2d_with_codes_graph::Forward::apply(input, ceil_mode);
  return {results[0], results[1]};
}

}  // namespace segnet_ext
