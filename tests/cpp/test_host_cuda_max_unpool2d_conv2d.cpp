// The CUDA kernels of max_unpool2d_conv2d, executed on the host, against their definitions.
#include <cstring>
#include <stdexcept>

#include "cuda/launch.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_kernel.cuh"
#include "max_unpool2d_conv2d_problem.h"

using namespace segnet_ext;
using namespace segnet_ext::testing;

namespace {

constexpr int64_t kKib = 1024;

template <class T>
class Run {
 public:
  Run(const cuda::Launcher& launch, bool allow_tf32, const op::Shape& shape, Random& random)
      : launch_(launch), allow_tf32_(allow_tf32), problem_(shape, random) {
    read(problem_.codes, "codes");
    read(problem_.input, "input");
    read(problem_.weight, "weight");
    read(problem_.bias, "bias");
    read(problem_.grad_output, "grad_output");
  }

  void convolution(op::Direction direction, op::ConvPlan plan) {
    const bool forward = direction == op::Direction::kForward;
    Buffer<T> result(forward ? problem_.grad_output.size() : problem_.input.size());
    Buffer<uint8_t> packed(plan.packed_bytes + 16);
    op::ConvArguments arguments{};
    arguments.map = forward ? problem_.input.data() : problem_.grad_output.data();
    arguments.codes = problem_.codes.data();
    arguments.weight = problem_.weight.data();
    arguments.bias = forward ? problem_.bias.data() : nullptr;
    arguments.relu = forward && problem_.relu;
    arguments.result = result.data();
    arguments.packed = packed.data();
    host_cuda::Buffers written;
    written.write(result.data(), static_cast<size_t>(result.size()) * sizeof(T), "result");
    written.write(packed.data(), static_cast<size_t>(plan.packed_bytes), "packed weight");
    op::launch_conv(launch_, Element<T>::kDType, plan, problem_.shape, direction, arguments);
    if (forward) {
      problem_.check_output(result);
    } else {
      problem_.check_grad_input(result);
    }
  }

  void convolutions() {
    for (const auto direction : {op::Direction::kForward, op::Direction::kGradInput}) {
      op::ConvPlan plan = op::plan_conv(launch_, Element<T>::kDType, allow_tf32_, problem_.shape, direction);
      convolution(direction, plan);
      if (plan.math == op::Math::kTensorCores && sizeof(T) == 2) {
        plan.wide = true;  // whatever the sizes are
        plan.packed_bytes *= 2;
        convolution(direction, plan);
      }
      plan.direct = true;
      convolution(direction, plan);
    }
  }

  void grad_weight() {
    op::GradWeightPlan plan = op::plan_grad_weight(launch_, Element<T>::kDType, allow_tf32_, problem_.shape);
    grad_weight(plan);
    plan.splits = 1;  // so few pixels would be split until a block has a single tile of them
    grad_weight(plan);
  }

  void grad_weight(const op::GradWeightPlan& plan) {
    using acc_t = acc_type<T>;
    const op::Shape& shape = problem_.shape;
    Buffer<acc_t> partial(plan.partial_elements(shape));
    Buffer<T> grad_weight(problem_.weight.size());
    const op::GradWeightArguments arguments{problem_.grad_output.data(), problem_.input.data(), problem_.codes.data(),
                                            partial.data(), grad_weight.data()};
    host_cuda::Buffers written;
    const auto write = [&](auto& buffer, const char* name) {
      written.write(buffer.data(), static_cast<size_t>(buffer.size()) * sizeof(buffer[0]), name);
    };
    write(partial, "partial");
    write(grad_weight, "grad_weight");
    op::launch_grad_weight(launch_, Element<T>::kDType, plan, shape, arguments);
    problem_.check_grad_weight(grad_weight);
  }

 private:
  template <class U>
  void read(const Buffer<U>& buffer, const char* name) {
    inputs_.read(buffer.data(), static_cast<size_t>(buffer.size()) * sizeof(U), name);
  }

  const cuda::Launcher& launch_;
  bool allow_tf32_;
  Problem<T> problem_;
  host_cuda::Buffers inputs_;
};

// Small, since a product of matrices takes microseconds here, and yet more than one block and chunk in every direction.
op::Shape random_shape(Random& random, int64_t kernel_size) {
  op::Shape s{};
  s.batch = kernel_size == 3 ? 2 : 1;
  s.in_channels = draw(random, 0, 1) == 0 ? 8 * draw(random, 1, 5) : draw(random, 1, 40);
  s.out_channels = draw(random, 0, 2) == 0 ? draw(random, 65, 80) : 8 * draw(random, 1, 4);
  s.pooled_height = draw(random, 1, 6);
  s.pooled_width = draw(random, 1, 10);
  s.height = 2 * s.pooled_height + draw(random, -1, 1);
  s.width = 2 * s.pooled_width + draw(random, -1, 1);
  s.kernel_size = kernel_size;
  return s;
}

// A map of so many tiles that wide blocks are chosen, with a second block of columns that is not full; and by narrow
// ones. All that forward does with shared memory takes one pass over its banks.
void wide(op::Direction direction, Random& random) {
  const bool forward = direction == op::Direction::kForward;
  const int64_t channels = forward ? 8 : 136;
  const op::Shape shape{1, channels, 36, 96, 144 - channels, 72, 192, 3};
  const cuda::Launcher launch(80, 163 * kKib);
  op::ConvPlan plan = op::plan_conv(launch, DType::kHalf, /*allow_tf32=*/false, shape, direction);
  CHECK(plan.wide && !plan.direct, "wide blocks are chosen");
  Run<half> run(launch, /*allow_tf32=*/false, shape, random);
  run.convolution(direction, plan);
  plan.wide = false;
  run.convolution(direction, plan);
  const auto& counters = host_cuda::counters();
  CHECK(!forward || counters.vector_bank_conflicts == 0, "%lld extra passes over the banks for vectors",
        static_cast<long long>(counters.vector_bank_conflicts));
}

// What is chosen for 136 channels and as many tiles as it takes.
op::ConvPlan large_plan(int arch, int64_t shared_limit, DType dtype, int64_t kernel_size) {
  return op::plan_conv(cuda::Launcher(arch, shared_limit), dtype, /*allow_tf32=*/true,
                       {8, 136, 180, 240, 136, 360, 480, kernel_size}, op::Direction::kForward);
}

void plans() {
  CHECK(large_plan(80, 163 * kKib, DType::kHalf, 7).wide, "two wide blocks of 7x7 fit");
  const op::ConvPlan large = large_plan(80, 163 * kKib, DType::kHalf, 19);
  CHECK(!large.wide && !large.direct, "a narrow block of 19x19 fits, a wide one does not");
  CHECK(large_plan(80, 163 * kKib, DType::kHalf, 101).direct, "no block of 101x101 fits");
  CHECK(!large_plan(90, 227 * kKib, DType::kHalf, 3).wide, "9.0 has no wide blocks");
  CHECK(!large_plan(86, 99 * kKib, DType::kHalf, 3).wide, "two wide blocks do not fit 100 KiB");
  CHECK(!large_plan(80, 163 * kKib, DType::kFloat, 3).wide, "tf32 has no wide blocks");
  CHECK(!large_plan(75, 64 * kKib, DType::kHalf, 3).wide, "7.5 has no wide blocks");
  const cuda::Launcher launch(80, 163 * kKib);
  try {
    op::plan_conv(launch, DType::kHalf, false, {1, 4, 1, int64_t{1} << 31, 4, 1, int64_t{1} << 32, 3},
                  op::Direction::kForward);
    CHECK(false, "a map of 2^32 columns is accepted");
  } catch (const std::runtime_error& error) {
    CHECK(std::strstr(error.what(), "columns, got 4294967296") != nullptr, "%s", error.what());
  }
}

}  // namespace

int main() {
  Random random(1);
  plans();
  wide(op::Direction::kForward, random);
  wide(op::Direction::kGradInput, random);
  for (const auto& [arch, shared_limit, allow_tf32] :
       {std::tuple(80, 163 * kKib, true), std::tuple(80, 163 * kKib, false), std::tuple(75, 64 * kKib, false)}) {
    const cuda::Launcher launch(arch, shared_limit);
    for (const int64_t kernel_size : {3, 3, 1, 5, 7}) {
      for_every_dtype([&](auto, auto zero) {
        Run<decltype(zero)> run(launch, allow_tf32, random_shape(random, kernel_size), random);
        run.convolutions();
        run.grad_weight();
      });
    }
    std::printf("architecture %d, tf32 %d: ok\n", arch, allow_tf32);
  }
  const auto& counters = host_cuda::counters();
  std::printf("%lld launches, %lld products of matrices, %lld loads of matrices\n",
              static_cast<long long>(counters.launches), static_cast<long long>(counters.mma),
              static_cast<long long>(counters.ldmatrix));
  CHECK(counters.bank_conflicts == 0, "%lld extra passes over the banks",
        static_cast<long long>(counters.bank_conflicts));
}
