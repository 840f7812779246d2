// The Winograd kernels of 3x3 convolutions against the definitions.
#include "conv3x3/conv3x3_cpu_kernel.h"
#include "max_unpool2d_conv2d_problem.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

op::Shape random_shape(Random& random) {
  op::Shape s{};
  s.batch = draw(random, 1, 2);
  s.in_channels = draw(random, 1, 40);
  s.out_channels = draw(random, 0, 3) == 0 ? draw(random, 60, 70) : draw(random, 1, 24);
  s.pooled_height = draw(random, 1, 10);
  s.pooled_width = draw(random, 1, 10);
  s.height = 2 * s.pooled_height + draw(random, -1, 1);
  s.width = 2 * s.pooled_width + draw(random, -1, 1);
  s.kernel_size = 3;
  return s;
}

// The convolution on threads. On several also in several blocks of tiles, as only larger maps are cut, with the weights
// and the patches at the points made beforehand.
void convolve(DType dtype, conv3x3::ForwardParams params, int64_t threads) {
  conv3x3::Tasks tasks = conv3x3::forward_tasks(dtype, params.shape, threads);
  if (threads > 1 && !params.shape.direct()) {
    tasks.tile_blocks = std::min<int64_t>(2, params.shape.tiles(conv3x3::forward_tile(dtype)));
  }
  Buffer<char> points(conv3x3::forward_points_bytes(dtype, params.shape, tasks));
  if (points.size() > 0) {
    params.points = points.data();
    on_threads((params.shape.out_channels + conv3x3::kPointChannels - 1) / conv3x3::kPointChannels, threads,
               [&](int64_t begin, int64_t end) { conv3x3::forward_points(dtype, params, begin, end); });
  }
  Buffer<char> patches(conv3x3::forward_patches_bytes(dtype, params.shape, tasks, threads));
  if (patches.size() > 0) {
    params.patches = patches.data();
    on_threads(params.shape.tiles(conv3x3::forward_tile(dtype)), threads,
               [&](int64_t begin, int64_t end) { conv3x3::forward_patches(dtype, params, begin, end); });
  }
  on_workers(tasks.count(), threads, [&](Worker& worker) { conv3x3::forward(dtype, params, tasks, worker); });
}

template <class T>
void run(Random& random) {
  using acc_t = acc_type<T>;
  constexpr DType kDType = Element<T>::kDType;
  Problem<T> problem(random_shape(random), random);
  problem.tolerance = 1e-3;
  const op::Shape& s = problem.shape;
  const conv3x3::Shape shape{s.batch, s.in_channels, s.out_channels, s.height, s.width};
  const conv3x3::Source unpooled{problem.input.data(), problem.codes.data(), nullptr, nullptr,
                                 s.pooled_height,      s.pooled_width};

  for (const int64_t threads : {1, 3}) {
    // Where the element of a contiguous weight lies, in each of the layouts.
    const bool channels_last = threads == 3;
    const int64_t c_stride = channels_last ? 1 : 9, tap_stride = channels_last ? s.in_channels : 1;
    const auto place = [&](int64_t i) {
      const int64_t k = i / (s.in_channels * 9), c = i / 9 % s.in_channels, tap = i % 9;
      return k * s.in_channels * 9 + c * c_stride + tap * tap_stride;
    };
    Buffer<T> weight(problem.weight.size());
    for (int64_t i = 0; i < weight.size(); ++i) {
      weight[place(i)] = problem.weight[i];
    }

    Buffer<T> output(problem.grad_output.size());
    conv3x3::ForwardParams params{};
    params.shape = shape;
    params.source = unpooled;
    params.weight = {weight.data(), s.in_channels * 9, c_stride, tap_stride, false};
    params.bias = problem.bias.data();
    params.relu = problem.relu;
    params.result = conv3x3::Result::kMap;
    params.output = output.data();
    convolve(kDType, params, threads);
    problem.check_output(output);

    Buffer<T> grad_input(problem.input.size());
    conv3x3::ForwardParams input_params{};
    input_params.shape = {s.batch, s.out_channels, s.in_channels, s.height, s.width};
    input_params.source.map = problem.grad_output.data();
    input_params.weight = {weight.data(), c_stride, s.in_channels * 9, tap_stride, true};
    input_params.result = conv3x3::Result::kWinners;
    input_params.output = grad_input.data();
    input_params.codes = problem.codes.data();
    input_params.pooled_height = s.pooled_height;
    input_params.pooled_width = s.pooled_width;
    convolve(kDType, input_params, threads);
    problem.check_grad_input(grad_input);

    // In parts as well, which only larger maps have by themselves, and those that are convolved directly never.
    const int64_t most_parts = shape.direct() ? 1 : std::min<int64_t>(2, shape.tiles(conv3x3::kGradTile));
    for (const int64_t parts : {conv3x3::grad_weight_parts(shape), most_parts}) {
      const int64_t blocks = conv3x3::grad_weight_blocks(shape);
      Buffer<T> grad_weight(problem.weight.size()), contiguous(problem.weight.size());
      Buffer<acc_t> sums(parts * blocks * conv3x3::grad_weight_sums_size(shape));
      const conv3x3::GradWeightParams weight_params{
          shape, unpooled, problem.grad_output.data(), parts, sums.data(), grad_weight.data(), channels_last};
      on_workers(parts * blocks, threads,
                 [&](Worker& worker) { conv3x3::grad_weight_sums(kDType, weight_params, worker); });
      if (parts > 1) {
        on_threads(s.out_channels, threads,
                   [&](int64_t begin, int64_t end) { conv3x3::grad_weight_taps(kDType, weight_params, begin, end); });
      }
      for (int64_t i = 0; i < contiguous.size(); ++i) {
        contiguous[i] = grad_weight[place(i)];
      }
      problem.check_grad_weight(contiguous);
    }
  }
}

void test() {
  Random random(1);
  for (int i = 0; i < 8; ++i) {
    for_every_dtype([&](auto, auto zero) { run<decltype(zero)>(random); });
  }
}

}  // namespace

int main() {
  return at_every_level(test);
}
