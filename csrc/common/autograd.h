// What the operations whose graph is made in C++ share.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>

#include <functional>
#include <initializer_list>
#include <optional>
#include <vector>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "segnet_ext/checks.h"

namespace segnet_ext {

using OptionalTensor = std::optional<at::Tensor>;

// Of a saved tensor, which is undefined where there was none.
inline OptionalTensor optional(const at::Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

// An operation's own output, for the operation to save. Where saving is broken off, as torch's checkpointing does once
// it has made all that it needs, a context holds on to what it was given; were that the output itself, which gets the
// operation's node, the node would hold itself for ever.
inline at::Tensor own_output(const at::Tensor& output) {
  return output.detach();
}

// Whether an operation of these tensors is to be recorded.
inline bool requires_grad(const OptionalTensor& tensor) {
  return tensor && tensor->requires_grad();
}
template <class... Tensors>
bool records_graph(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && (requires_grad(tensors) || ...);
}

// make()'s gradients, from inside a backward pass. Where that records a graph itself, they get a node of their own, so
// that it is an error to differentiate them by the tensors they are made `of`, those that there are, and not a silent
// zero.
std::vector<at::Tensor> make_gradients(const char* op, std::initializer_list<OptionalTensor> of,
                                       const std::function<std::vector<at::Tensor>()>& make);

// What reaches a convolution of grad_output: through the ReLU behind it where that one's output was saved, else
// `output` is undefined; channels_last, once for all that read it.
at::Tensor convolution_grad(const at::Tensor& grad_output, const at::Tensor& output);

// use(mean, var) with the statistics that input is normalised with: the running ones or, in training, the batch's own,
// towards which the running ones then move if there are any.
template <class Use>
auto with_statistics(const char* op, const at::Tensor& input, const OptionalTensor& running_mean,
                     const OptionalTensor& running_var, bool training, double momentum, const Use& use) {
  if (!training) {
    return use(running_mean.value(), running_var.value());
  }
  const auto [mean, var] = bn_relu_max_pool2d_stats(input.detach());
  if (running_mean) {
    check_shape(op, "running_mean", *running_mean, mean.sizes(), "(C)");
    check_shape(op, "running_var", running_var.value(), mean.sizes(), "(C)");
  }
  auto result = use(mean, var);
  if (running_mean) {  // last, so that an argument that is refused leaves them as they were
    update_running_stats(mean, var, input.numel() / input.size(1), *running_mean, *running_var, momentum);
  }
  return result;
}

}  // namespace segnet_ext
