// What the tests of kernels on the host executor share.
#pragma once

#include <memory>

#include "bn_relu_max_pool2d/bn_relu_max_pool2d_launch.h"
#include "cuda/launch.h"
#include "testing.h"

namespace segnet_ext::testing {

inline const char* name_of(host_cuda::FaultKind kind) {
  constexpr const char* kNames[] = {"launch",        "race",      "unwritten", "in flight",  "shared bounds",
                                    "global bounds", "read only", "local",     "misaligned", "barrier",
                                    "warp",          "metadata",  "schedule",  "exception"};
  return kNames[static_cast<int>(kind)];
}

// Runs what must end in the given fault, and shows what was said.
template <class Run>
void expect_fault(const char* what, host_cuda::FaultKind kind, const Run& run) {
  try {
    run();
  } catch (const host_cuda::Fault& fault) {
    CHECK(fault.kind() == kind, "%s: found %s instead of %s: %s", what, name_of(fault.kind()), name_of(kind),
          fault.what());
    std::printf("%s: %s\n", what, fault.what());
    return;
  }
  CHECK(false, "%s was not found", what);
}

inline cuda::Launcher launcher() {
  return cuda::Launcher(host_cuda::device().arch, host_cuda::device().shared_limit);
}

// Groups narrower than a byte of codes, whole vectors, tails behind them; a tile of one group and of several.
constexpr int64_t kChannelsTried[] = {1, 3, 4, 5, 8, 13, 64, 67};

// What a launch is told the device can hold: as in use, and so little that every thread gets many items.
constexpr int64_t kThreadsTried[] = {cuda::kThreadsToFill, 1};

// Tells the executor which buffers kernels may touch.
class Device {
 public:
  template <class T>
  const T* read(const Buffer<T>& buffer) {
    buffers_.read(buffer.data(), static_cast<size_t>(buffer.size()) * sizeof(T), "read");
    return buffer.data();
  }
  template <class T>
  T* write(Buffer<T>& buffer) {
    buffers_.write(buffer.data(), static_cast<size_t>(buffer.size()) * sizeof(T), "written");
    return buffer.data();
  }

 private:
  host_cuda::Buffers buffers_;
};

// What the planted kernels work on: 64 floats each, which hold their index.
struct Arrays {
  Buffer<float> input{64}, output{64};
  std::unique_ptr<host_cuda::Buffers> buffers = std::make_unique<host_cuda::Buffers>();
  const float* in = input.data();
  float* out = output.data();

  Arrays() {
    for (int i = 0; i < 64; ++i) {
      input[i] = static_cast<float>(i);
    }
    buffers->read(in, 64 * sizeof(float), "input");
    buffers->write(out, 64 * sizeof(float), "output");
  }
};

// The body runs in one block of 64 threads with 256 bytes of shared memory.
template <class Body>
void expect(const char* what, host_cuda::FaultKind kind, const Body& body) {
  Arrays arrays;
  expect_fault(what, kind, [&] {
    host_cuda::launch(1, 64, 256, [&] {
      SEGNET_DYNAMIC_SHARED(shared);
      body(static_cast<int>(threadIdx.x), reinterpret_cast<float*>(shared), arrays.in, arrays.out);
    });
  });
}
template <class Body>
void expect_no_fault(const char* what, const Body& body) {
  Arrays arrays;
  try {
    host_cuda::launch(1, 64, 256, [&] {
      SEGNET_DYNAMIC_SHARED(shared);
      body(static_cast<int>(threadIdx.x), reinterpret_cast<float*>(shared), arrays.in, arrays.out);
    });
  } catch (const host_cuda::Fault& fault) {
    CHECK(false, "%s: %s", what, fault.what());
  }
}

// A BatchNorm that comes to these scales and shifts exactly, with 1/2 or 2 for invstd by the channel. On the device for
// as long as `device`.
template <class acc_t>
struct ExactNorm {
  static constexpr double kEps = 0.125;
  Buffer<acc_t> var, weight, bias;

  ExactNorm(const Buffer<acc_t>& mean, const Buffer<acc_t>& scale, const Buffer<acc_t>& shift)
      : var(mean.size()), weight(mean.size()), bias(mean.size()) {
    for (int64_t c = 0; c < mean.size(); ++c) {
      var[c] = static_cast<acc_t>(1 / (invstd(c) * invstd(c)) - kEps);
      weight[c] = static_cast<acc_t>(scale[c] / invstd(c));
      bias[c] = shift[c] + mean[c] * scale[c];
    }
  }
  static double invstd(int64_t c) { return c % 3 == 0 ? 0.5 : 2; }

  bn_relu_max_pool2d::NormParams params(Device& device, const Buffer<acc_t>& mean) const {
    return {device.read(mean), device.read(var), device.read(weight), device.read(bias), kEps};
  }
};

}  // namespace segnet_ext::testing
