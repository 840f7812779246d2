#include "bn_relu_max_pool2d/bn_relu_max_pool2d_autograd.h"

#include <torch/csrc/autograd/custom_function.h>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "common/autograd.h"

namespace segnet_ext {
namespace bn_relu_max_pool2d_graph {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kName = "bn_relu_max_pool2d";

variable_list gradients(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& codes,
                        const OptionalTensor& output, const OptionalTensor& weight, const OptionalTensor& bias,
                        const at::Tensor& mean, const at::Tensor& var, double eps, bool batch_statistics) {
  auto [grad_input, grad_weight, grad_bias] =
      bn_relu_max_pool2d_backward(grad_output, input, codes, output, weight, bias, mean, var, eps, batch_statistics);
  return {grad_input, weight ? grad_weight.to(weight->scalar_type()) : grad_weight,
          bias ? grad_bias.to(bias->scalar_type()) : grad_bias};
}

struct Forward : torch::autograd::Function<Forward> {
  static variable_list forward(AutogradContext* context, const at::Tensor& input, const OptionalTensor& weight,
                               const OptionalTensor& bias, const at::Tensor& mean, const at::Tensor& var,
                               bool batch_statistics, double eps, bool ceil_mode) {
    auto [output, codes] = bn_relu_max_pool2d_forward(input, weight, bias, mean, var, eps, ceil_mode);
    const bool wants_output = bn_relu_max_pool2d::backward_wants_output(input, batch_statistics);
    context->save_for_backward({input, codes, weight.value_or(at::Tensor()), bias.value_or(at::Tensor()), mean, var,
                                wants_output ? own_output(output) : at::Tensor()});
    context->saved_data["eps"] = eps;
    context->saved_data["batch_statistics"] = batch_statistics;
    context->set_materialize_grads(false);
    context->mark_non_differentiable({codes});
    return {output, codes};
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(8);
    if (grads[0].defined()) {
      const variable_list saved = context->get_saved_variables();
      const OptionalTensor weight = optional(saved[2]), bias = optional(saved[3]), output = optional(saved[6]);
      const double eps = context->saved_data["eps"].toDouble();
      const bool batch_statistics = context->saved_data["batch_statistics"].toBool();
      const variable_list made = make_gradients(kName, {grads[0], saved[0], weight, bias}, [&] {
        return gradients(grads[0], saved[0], saved[1], output, weight, bias, saved[4], saved[5], eps, batch_statistics);
      });
      result[0] = made[0];
      result[1] = weight ? made[1] : at::Tensor();
      result[2] = bias ? made[2] : at::Tensor();
    }
    return result;
  }
};

}  // namespace
}  // namespace bn_relu_max_pool2d_graph

std::tuple<at::Tensor, at::Tensor> bn_relu_max_pool2d_call(const at::Tensor& input,
                                                           const std::optional<at::Tensor>& weight,
                                                           const std::optional<at::Tensor>& bias,
                                                           const std::optional<at::Tensor>& running_mean,
                                                           const std::optional<at::Tensor>& running_var, bool training,
                                                           double momentum, double eps, bool ceil_mode) {
  using namespace bn_relu_max_pool2d_graph;
  const bool graph = records_graph(input, weight, bias);
  return with_statistics(kName, input, running_mean, running_var, training, momentum,
                         [&](const at::Tensor& mean, const at::Tensor& var) -> std::tuple<at::Tensor, at::Tensor> {
                           if (!graph) {
                             return bn_relu_max_pool2d_forward(input, weight, bias, mean, var, eps, ceil_mode);
                           }
                           const variable_list results =
                               Forward::apply(input, weight, bias, mean, var, training, eps, ceil_mode);
                           return {results[0], results[1]};
                         });
}

}  // namespace segnet_ext
