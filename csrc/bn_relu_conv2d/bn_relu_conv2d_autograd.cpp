#include "bn_relu_conv2d/bn_relu_conv2d_autograd.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/threshold_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <initializer_list>
#include <iterator>
#include <tuple>
#include <utility>

#include "bn_relu_conv2d/bn_relu_conv2d.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "conv_bias/conv_bias.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {
namespace bn_relu_conv2d_graph {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<at::Tensor>;

constexpr const char* kName = "bn_relu_conv2d";

OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

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

// A node of its own where backward records a graph, so that it is an error to differentiate it and not a silent zero.
struct Gradients : torch::autograd::Function<Gradients> {
  static variable_list forward(AutogradContext*, const at::Tensor& grad_output, const at::Tensor& input,
                               const OptionalTensor& bn_weight, const OptionalTensor& bn_bias,
                               const OptionalTensor& mean, const OptionalTensor& var, const OptionalTensor& codes,
                               const at::Tensor& weight, double eps, bool batch_statistics, int64_t wanted) {
    return gradients(grad_output, {input, bn_weight, bn_bias, mean, var, codes, weight, eps, batch_statistics},
                     static_cast<unsigned>(wanted));
  }
  static variable_list backward(AutogradContext*, const variable_list&) {
    TORCH_CHECK(false, kName, ": second derivatives are not implemented");
  }
};

at::Tensor convolve(const at::Tensor& input, const OptionalTensor& bn_weight, const OptionalTensor& bn_bias,
                    const OptionalTensor& mean, const OptionalTensor& var, double eps, const OptionalTensor& codes,
                    int64_t height, int64_t width, const at::Tensor& weight, const OptionalTensor& bias, bool relu) {
  return bn_relu_conv2d_forward(input, bn_weight, bn_bias, mean, var, eps, codes, height, width, weight, bias, relu);
}

struct Forward : torch::autograd::Function<Forward> {
  static Variable forward(AutogradContext* context, const at::Tensor& input, const OptionalTensor& bn_weight,
                          const OptionalTensor& bn_bias, const OptionalTensor& mean, const OptionalTensor& var,
                          const OptionalTensor& codes, const at::Tensor& weight, const OptionalTensor& bias, double eps,
                          int64_t height, int64_t width, bool relu, bool batch_statistics) {
    const at::Tensor output =
        convolve(input, bn_weight, bn_bias, mean, var, eps, codes, height, width, weight, bias, relu);
    // Where ReLU cut can only be told from its result, which the next layer keeps anyway.
    variable_list saved{input};
    for (const OptionalTensor* tensor : {&bn_weight, &bn_bias, &mean, &var, &codes}) {
      saved.push_back(tensor->value_or(at::Tensor()));
    }
    saved.push_back(weight);
    saved.push_back(relu ? output : at::Tensor());
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

    // The node has an edge for each tensor that was given.
    constexpr size_t kPlaces[kGradients] = {0, 1, 2, 6, 7};  // among forward's tensors
    const bool given[] = {true,
                          bn_weight.has_value(),
                          bn_bias.has_value(),
                          mean.has_value(),
                          var.has_value(),
                          codes.has_value(),
                          true,
                          context->saved_data["bias"].toBool()};
    unsigned wanted = 0;
    size_t edge = 0;
    for (size_t place = 0, gradient = 0; place < std::size(given); ++place) {
      if (place == kPlaces[gradient]) {
        wanted |= static_cast<unsigned>(given[place] && context->needs_input_grad(edge)) << gradient;
        ++gradient;
      }
      edge += given[place];
    }

    at::Tensor grad = grads[0];
    if (output.defined()) {
      grad = at::threshold_backward(grad, output, 0);
    }
    grad = grad.contiguous(at::MemoryFormat::ChannelsLast);  // once for all that read it
    const variable_list made =
        at::GradMode::is_enabled()
            ? Gradients::apply(grad, input, bn_weight, bn_bias, mean, var, codes, weight, eps, batch_statistics,
                               static_cast<int64_t>(wanted))
            : gradients(grad, {input, bn_weight, bn_bias, mean, var, codes, weight, eps, batch_statistics}, wanted);
    for (size_t gradient = 0; gradient < kGradients; ++gradient) {
      if ((wanted >> gradient & 1) != 0) {
        result[kPlaces[gradient]] = made[gradient];
      }
    }
    return result;
  }
};

bool requires_grad(std::initializer_list<const OptionalTensor*> tensors) {
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const OptionalTensor* tensor) { return *tensor && (*tensor)->requires_grad(); });
}

}  // namespace
}  // namespace bn_relu_conv2d_graph

at::Tensor bn_relu_conv2d_call(const at::Tensor& input, bool normalises, const std::optional<at::Tensor>& bn_weight,
                               const std::optional<at::Tensor>& bn_bias, const std::optional<at::Tensor>& running_mean,
                               const std::optional<at::Tensor>& running_var, bool training, double momentum, double eps,
                               const std::optional<at::Tensor>& codes, int64_t height, int64_t width,
                               const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool relu) {
  using namespace bn_relu_conv2d_graph;
  OptionalTensor mean = running_mean, var = running_var;
  if (normalises && training) {
    std::tie(mean, var) = bn_relu_max_pool2d_stats(input.detach());
    if (running_mean) {
      check_shape(kName, "running_mean", *running_mean, mean->sizes(), "(C)");
      check_shape(kName, "running_var", running_var.value(), mean->sizes(), "(C)");
    }
  }
  const OptionalTensor given = input, filters = weight;
  const bool graph = at::GradMode::is_enabled() && requires_grad({&given, &bn_weight, &bn_bias, &filters, &bias});
  const at::Tensor output =
      graph ? at::Tensor(Forward::apply(input, bn_weight, bn_bias, mean, var, codes, weight, bias, eps, height, width,
                                        relu, training))
            : convolve(input, bn_weight, bn_bias, mean, var, eps, codes, height, width, weight, bias, relu);
  if (normalises && training && running_mean) {  // last, so that an argument that is refused leaves them as they were
    update_running_stats(*mean, *var, input.numel() / input.size(1), *running_mean, *running_var, momentum);
  }
  return output;
}

}  // namespace segnet_ext
