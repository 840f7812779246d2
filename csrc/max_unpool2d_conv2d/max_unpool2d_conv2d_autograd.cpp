#include "max_unpool2d_conv2d/max_unpool2d_conv2d_autograd.h"

#include <torch/csrc/autograd/custom_function.h>

#include "common/autograd.h"
#include "common/convolution.h"
#include "conv_bias/conv_bias.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"

namespace segnet_ext {
namespace max_unpool2d_conv2d_graph {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

struct Forward : torch::autograd::Function<Forward> {
  static Variable forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& codes,
                          const at::Tensor& weight, const OptionalTensor& bias, int64_t height, int64_t width,
                          bool relu) {
    const at::Tensor output = max_unpool2d_conv2d_forward(input, codes, weight, bias, height, width, relu);
    // Where ReLU cut can only be told from its result, which the next layer keeps anyway.
    context->save_for_backward({input, codes, weight, relu ? own_output(output) : at::Tensor()});
    context->saved_data["bias"] = bias.has_value();
    context->set_materialize_grads(false);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(7);
    if (!grads[0].defined()) {
      return result;
    }
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &input = saved[0], &codes = saved[1], &weight = saved[2], &output = saved[3];
    const bool wants_input = context->needs_input_grad(0), wants_weight = context->needs_input_grad(2);
    const bool wants_bias = context->saved_data["bias"].toBool() && context->needs_input_grad(3);

    const at::Tensor grad = convolution_grad(grads[0], output);
    const variable_list made = make_gradients("max_unpool2d_conv2d", {grad, input, weight}, [&] {
      variable_list gradients;
      if (wants_input) {
        gradients.push_back(max_unpool2d_conv2d_grad_input(grad, codes, weight, input.size(2), input.size(3)));
      }
      if (wants_weight) {
        gradients.push_back(
            max_unpool2d_conv2d_grad_weight(grad, input, codes, weight.size(3), is_channels_last(weight)));
      }
      if (wants_bias) {
        gradients.push_back(conv_bias_grad(grad));
      }
      return gradients;
    });
    auto next = made.begin();
    result[0] = wants_input ? *next++ : at::Tensor();
    result[2] = wants_weight ? *next++ : at::Tensor();
    result[3] = wants_bias ? *next++ : at::Tensor();
    return result;
  }
};

}  // namespace
}  // namespace max_unpool2d_conv2d_graph

at::Tensor max_unpool2d_conv2d_call(const at::Tensor& input, const at::Tensor& codes, const at::Tensor& weight,
                                    const std::optional<at::Tensor>& bias, int64_t height, int64_t width, bool relu) {
  return records_graph(input, weight, bias)
             ? max_unpool2d_conv2d_graph::Forward::apply(input, codes, weight, bias, height, width, relu)
             : max_unpool2d_conv2d_forward(input, codes, weight, bias, height, width, relu);
}

}  // namespace segnet_ext
