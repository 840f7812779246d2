// The CPU kernels of max_unpool2d_conv2d against their definitions.
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_cpu_kernel.h"
#include "max_unpool2d_conv2d_problem.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

op::Shape random_shape(Random& random) {
  op::Shape s{};
  s.batch = draw(random, 1, 2);
  s.in_channels = draw(random, 1, 24);
  s.out_channels = draw(random, 0, 3) == 0 ? draw(random, 60, 70) : draw(random, 1, 24);
  s.pooled_height = draw(random, 1, 10);
  s.pooled_width = draw(random, 1, 10);
  s.height = 2 * s.pooled_height + draw(random, -1, 1);
  s.width = 2 * s.pooled_width + draw(random, -1, 1);
  s.kernel_size = 2 * draw(random, 0, 3) + 1;
  return s;
}

template <class T>
Buffer<acc_type<T>> packed(const op::Shape& s, const op::ChannelBlocks& blocks, bool flip, const Buffer<T>& weight) {
  Buffer<acc_type<T>> to(blocks.count * s.in_channels * s.taps() * blocks.width);
  op::pack_weight(Element<T>::kDType, s, blocks, flip, weight.data(), to.data());
  return to;
}

template <class T>
void run(Random& random) {
  using acc_t = acc_type<T>;
  constexpr DType kDType = Element<T>::kDType;
  const Problem<T> problem(random_shape(random), random);
  const op::Shape& s = problem.shape;

  const op::ChannelBlocks blocks = op::forward_blocks(kDType, s);
  CHECK(blocks.count * blocks.width >= s.out_channels, "blocks cover the channels");
  Buffer<acc_t> bias(blocks.count * blocks.width);
  for (int64_t k = 0; k < bias.size(); ++k) {
    bias[k] = k < s.out_channels ? static_cast<acc_t>(Element<T>::value(problem.bias[k])) : acc_t(0);
  }
  const auto forward_weight = packed<T>(s, blocks, false, problem.weight);
  const op::ChannelBlocks input_blocks = op::grad_input_blocks(kDType, s);
  const auto flipped = packed<T>(s, input_blocks, true, problem.weight);
  const op::ChannelBlocks weight_blocks = op::grad_weight_blocks(kDType, s);
  for (const int64_t threads : {1, 3}) {
    Buffer<T> output(problem.grad_output.size());
    const op::ForwardParams params{
        s,           blocks,       problem.input.data(), problem.codes.data(), forward_weight.data(),
        bias.data(), problem.relu, output.data()};
    on_threads(op::forward_tasks(s), threads,
               [&](int64_t begin, int64_t end) { op::forward(kDType, params, begin, end); });
    problem.check_output(output);

    Buffer<T> grad_input(problem.input.size());
    const op::GradInputParams input_params{
        s, input_blocks, problem.grad_output.data(), problem.codes.data(), flipped.data(), grad_input.data()};
    on_threads(op::grad_input_tasks(s), threads,
               [&](int64_t begin, int64_t end) { op::grad_input(kDType, input_params, begin, end); });
    problem.check_grad_input(grad_input);

    Buffer<T> grad_weight(problem.weight.size()), grad_bias(s.out_channels);
    const op::GradWeightParams weight_params{
        s, weight_blocks, problem.grad_output.data(), problem.input.data(), problem.codes.data(), grad_weight.data()};
    on_threads(op::grad_weight_tasks(s, weight_blocks), threads,
               [&](int64_t begin, int64_t end) { op::grad_weight(kDType, weight_params, begin, end); });
    const op::GradBiasParams bias_params{s, problem.grad_output.data(), grad_bias.data()};
    on_threads(op::grad_bias_tasks(s), threads,
               [&](int64_t begin, int64_t end) { op::grad_bias(kDType, bias_params, begin, end); });
    problem.check_grad_weight(grad_weight);
    problem.check_grad_bias(grad_bias);
  }
}

void test() {
  Random random(1);
  for (int i = 0; i < 12; ++i) {
    for_every_dtype([&](auto, auto zero) { run<decltype(zero)>(random); });
  }
}

}  // namespace

int main() {
  return at_every_level(test);
}
