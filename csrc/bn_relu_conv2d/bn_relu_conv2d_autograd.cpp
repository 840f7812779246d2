#include "bn_relu_conv2d/bn_relu_conv2d_autograd.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

#include "bn_relu_conv2d/bn_relu_conv2d.h"
#include "common/autograd.h"
#include "conv_bias/conv_bias.h"

namespace segnet_ext {
namespace bn_relu_conv2d_graph {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

constexpr const char* kName = "bn_relu_conv2d";

// What has a gradient, in the order of the arguments.
enum Gradient { kInput, kBnWeight, kBnBias, kWeight, kBias, kGradients };

struct Saved {
  at::Tensor input;
  OptionalTensor bn_weight, bn_bias, mean, var, codes;
  at::Tensor weight;
  double eps;
  bool batch_statistics;
};

// Those of the gradients that are wanted; the others are empty.
variable_list gradients(const at::Tensor& grad_output, const Saved& saved, unsigned wanted) {
  const auto wants = [wanted](Gradient gradient) { return (wanted >> gradient & 1) != 0; };
  const auto& [input, bn_weight, bn_bias, mean, var, codes, weight, eps, batch_statistics] = saved;
  variable_list result(kGradients, at::empty({0}, grad_output.options()));
  if (wants(kWeight)) {
    result[kWeight] = bn_relu_conv2d_grad_weight(grad_output, input, bn_weight, bn_bias, mean, var, eps, codes, weight);
  }
  if (wants(kBias)) {
    result[kBias] = conv_bias_grad(grad_output);
  }
  if (wants(kInput) || wants(kBnWeight) || wants(kBnBias)) {
    auto [grad_input, grad_bn_weight, grad_bn_bias] = bn_relu_conv2d_grad_input(
        grad_output, input, bn_weight, bn_bias, mean, var, eps, batch_statistics, codes, weight);
    result[kInput] = grad_input;
    result[kBnWeight] = bn_weight ? grad_bn_weight.to(bn_weight->scalar_type()) : grad_bn_weight;
    result[kBnBias] = bn_bias ? grad_bn_bias.to(bn_bias->scalar_type()) : grad_bn_bias;
  }
  return result;
}

struct Forward : torch::autograd::Function<Forward> {
  static Variable forward(AutogradContext* context, const at::Tensor& input, const OptionalTensor& bn_weight,
                          const OptionalTensor& bn_bias, const OptionalTensor& mean, const OptionalTensor& var,
                          const OptionalTensor& codes, const at::Tensor& weight, const OptionalTensor& bias, double eps,
                          int64_t height, int64_t width, bool relu, bool batch_statistics) {
    const at::Tensor output =
        bn_relu_conv2d_forward(input, bn_weight, bn_bias, mean, var, eps, codes, height, width, weight, bias, relu);
    // Where ReLU cut can only be told from its result, which the next layer keeps anyway.
    variable_list saved{input};
    for (const OptionalTensor* tensor : {&bn_weight, &bn_bias, &mean, &var, &codes}) {
      saved.push_back(tensor->value_or(at::Tensor()));
    }
    saved.push_back(weight);
    saved.push_back(relu ? own_output(output) : at::Tensor());
    context->save_for_backward(std::move(saved));
    context->saved_data["eps"] = eps;
    context->saved_data["batch_statistics"] = batch_statistics;
    context->saved_data["bias"] = bias.has_value();
    context->set_materialize_grads(false);
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    variable_list result(13);
    if (!grads[0].defined()) {
      return result;
    }
    const variable_list saved = context->get_saved_variables();
    const OptionalTensor bn_weight = optional(saved[1]), bn_bias = optional(saved[2]), mean = optional(saved[3]),
                         var = optional(saved[4]), codes = optional(saved[5]);
    const at::Tensor &input = saved[0], &weight = saved[6], &output = saved[7];
    const double eps = context->saved_data["eps"].toDouble();
    const bool batch_statistics = context->saved_data["batch_statistics"].toBool();

    // The node has an edge for each tensor that was given, in forward's order.
    size_t edge = 0;
    unsigned wanted = 0;
    const auto ask = [&](bool given, Gradient gradient) {
      wanted |= static_cast<unsigned>(given && context->needs_input_grad(edge)) << gradient;
      edge += given;
    };
    ask(true, kInput);
    ask(bn_weight.has_value(), kBnWeight);
    ask(bn_bias.has_value(), kBnBias);
    edge += mean.has_value() + var.has_value() + codes.has_value();  // which have no gradient
    ask(true, kWeight);
    ask(context->saved_data["bias"].toBool(), kBias);

    const at::Tensor grad = convolution_grad(grads[0], output);
    const variable_list made = make_gradients(kName, {grad, input, weight, bn_weight, bn_bias}, [&] {
      return gradients(grad, {input, bn_weight, bn_bias, mean, var, codes, weight, eps, batch_statistics}, wanted);
    });
    constexpr size_t kPlaces[kGradients] = {0, 1, 2, 6, 7};  // of what has a gradient, among forward's arguments
    for (size_t gradient = 0; gradient < kGradients; ++gradient) {
      if ((wanted >> gradient & 1) != 0) {
        result[kPlaces[gradient]] = made[gradient];
      }
    }
    return result;
  }
};

}  // namespace
}  // namespace bn_relu_conv2d_graph

at::Tensor bn_relu_conv2d_call(const at::Tensor& input, bool normalises, const std::optional<at::Tensor>& bn_weight,
                               const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& running_mean,
                               const std::optional<at::Tensor>& running_var, bool training, double momentum, double eps,
                               const std::optional<at::Tensor>& codes, int64_t height, int64_t width,
                               const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool relu) {
  using namespace bn_relu_conv2d_graph;
  const bool graph = records_graph(input, bn_weight, bn_bias, weight, bias);
  const auto convolve = [&](const OptionalTensor& mean, const OptionalTensor& var) -> at::Tensor {
    if (graph) {
      return Forward::apply(input, bn_weight, bn_bias, mean, var, codes, weight, bias, eps, height, width, relu,
                            training);
    }
    return bn_relu_conv2d_forward(input, bn_weight, bn_bias, mean, var, eps, codes, height, width, weight, bias, relu);
  };
  if (!normalises) {
    return convolve(std::nullopt, std::nullopt);
  }
  return with_statistics(kName, input, running_mean, running_var, training, momentum, convolve);
}

}  // namespace segnet_ext
