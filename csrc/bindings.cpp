// The raw functions of segnet_ext._C. Each is wrapped once, as a custom operator, in segnet_ext/ops.
#include <torch/csrc/utils/pybind.h>

#include "bn_relu_conv2d/bn_relu_conv2d.h"
#include "bn_relu_conv2d/bn_relu_conv2d_autograd.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_autograd.h"
#include "build_info.h"
#include "codes_to_indices/codes_to_indices.h"
#include "common/map_memory.h"
#include "conv_bias/conv_bias.h"
#include "indices_to_codes/indices_to_codes.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes.h"
#include "max_pool2d_with_codes/max_pool2d_with_codes_autograd.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d.h"
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_autograd.h"
#include "simd/levels.h"

#if defined(SEGNET_HOST_CUDA)
#include <utility>

#include "host_cuda/host_cuda.h"
#endif

namespace py = pybind11;

namespace segnet_ext {
namespace {

py::dict build_info_dict() {
  const BuildInfo info = build_info();
  const auto or_none = [](const std::string& text) -> py::object {
    return text.empty() ? py::object(py::none()) : py::object(py::str(text));
  };
  py::dict dict;
  dict["compiler"] = info.compiler;
  dict["flags"] = info.flags;
  dict["debug"] = info.debug;
  dict["cxx11_abi"] = info.cxx11_abi;
  dict["python"] = info.python;
  dict["torch"] = info.torch;
  dict["cuda"] = or_none(info.cuda);
  dict["cuda_archs"] = or_none(info.cuda_archs);
  dict["simd_built"] = simd::built_levels();
  dict["simd_supported"] = simd::supported_levels();
  dict["simd"] = simd::level_name(simd::level());
  return dict;
}

}  // namespace
}  // namespace segnet_ext

PYBIND11_MODULE(_C, m) {
  using namespace segnet_ext;
  const auto no_gil = py::call_guard<py::gil_scoped_release>();

  m.doc() = "Kernels of segnet_ext. Use segnet_ext.ops, which adds autograd, torch.compile and autocast.";
  m.def("build_info", &build_info_dict);

  m.def("max_pool2d_with_codes_call", &max_pool2d_with_codes_call, no_gil, py::arg("input"), py::arg("ceil_mode"));
  m.def("max_pool2d_with_codes_forward", &max_pool2d_with_codes_forward, no_gil, py::arg("input"),
        py::arg("ceil_mode"));
  m.def("max_pool2d_with_codes_backward", &max_pool2d_with_codes_backward, no_gil, py::arg("grad_output"),
        py::arg("codes"), py::arg("height"), py::arg("width"));

  m.def("bn_relu_max_pool2d_call", &bn_relu_max_pool2d_call, no_gil, py::arg("input"), py::arg("weight"),
        py::arg("bias"), py::arg("running_mean"), py::arg("running_var"), py::arg("training"), py::arg("momentum"),
        py::arg("eps"), py::arg("ceil_mode"));
  m.def("bn_relu_max_pool2d_stats", &bn_relu_max_pool2d_stats, no_gil, py::arg("input"));
  m.def("update_running_stats", &update_running_stats, no_gil, py::arg("mean"), py::arg("var"), py::arg("values"),
        py::arg("running_mean"), py::arg("running_var"), py::arg("momentum"));
  m.def("bn_relu_max_pool2d_forward", &bn_relu_max_pool2d_forward, no_gil, py::arg("input"), py::arg("weight"),
        py::arg("bias"), py::arg("mean"), py::arg("var"), py::arg("eps"), py::arg("ceil_mode"));
  m.def("bn_relu_max_pool2d_backward", &bn_relu_max_pool2d_backward, no_gil, py::arg("grad_output"), py::arg("input"),
        py::arg("codes"), py::arg("output"), py::arg("weight"), py::arg("bias"), py::arg("mean"), py::arg("var"),
        py::arg("eps"), py::arg("batch_statistics"));

  m.def("max_unpool2d_conv2d_call", &max_unpool2d_conv2d_call, no_gil, py::arg("input"), py::arg("codes"),
        py::arg("weight"), py::arg("bias"), py::arg("height"), py::arg("width"), py::arg("relu"));
  m.def("max_unpool2d_conv2d_forward", &max_unpool2d_conv2d_forward, no_gil, py::arg("input"), py::arg("codes"),
        py::arg("weight"), py::arg("bias"), py::arg("height"), py::arg("width"), py::arg("relu"));
  m.def("max_unpool2d_conv2d_grad_input", &max_unpool2d_conv2d_grad_input, no_gil, py::arg("grad_output"),
        py::arg("codes"), py::arg("weight"), py::arg("pooled_height"), py::arg("pooled_width"));
  m.def("max_unpool2d_conv2d_grad_weight", &max_unpool2d_conv2d_grad_weight, no_gil, py::arg("grad_output"),
        py::arg("input"), py::arg("codes"), py::arg("kernel_size"), py::arg("channels_last"));

  m.def("conv2d_relu_max_pool2d", &conv2d_relu_max_pool2d, no_gil, py::arg("input"), py::arg("weight"),
        py::arg("bias"));
  m.def("bn_relu_conv2d_check", &bn_relu_conv2d_check, no_gil, py::arg("input"), py::arg("bn_weight"),
        py::arg("bn_bias"), py::arg("mean"), py::arg("var"), py::arg("codes"), py::arg("height"), py::arg("width"),
        py::arg("weight"), py::arg("bias"));
  m.def("bn_relu_conv2d_call", &bn_relu_conv2d_call, no_gil, py::arg("input"), py::arg("normalises"),
        py::arg("bn_weight"), py::arg("bn_bias"), py::arg("running_mean"), py::arg("running_var"), py::arg("training"),
        py::arg("momentum"), py::arg("eps"), py::arg("codes"), py::arg("height"), py::arg("width"), py::arg("weight"),
        py::arg("bias"), py::arg("relu"));
  m.def("bn_relu_conv2d_forward", &bn_relu_conv2d_forward, no_gil, py::arg("input"), py::arg("bn_weight"),
        py::arg("bn_bias"), py::arg("mean"), py::arg("var"), py::arg("eps"), py::arg("codes"), py::arg("height"),
        py::arg("width"), py::arg("weight"), py::arg("bias"), py::arg("relu"));
  m.def("bn_relu_conv2d_grad_input", &bn_relu_conv2d_grad_input, no_gil, py::arg("grad_output"), py::arg("input"),
        py::arg("bn_weight"), py::arg("bn_bias"), py::arg("mean"), py::arg("var"), py::arg("eps"),
        py::arg("batch_statistics"), py::arg("codes"), py::arg("weight"));
  m.def("bn_relu_conv2d_grad_weight", &bn_relu_conv2d_grad_weight, no_gil, py::arg("grad_output"), py::arg("input"),
        py::arg("bn_weight"), py::arg("bn_bias"), py::arg("mean"), py::arg("var"), py::arg("eps"), py::arg("codes"),
        py::arg("weight"));

  // Local, since the tests load a second build of this module.
  py::class_<MapReuse>(m, "MapReuse", py::module_local())
      .def(py::init<>())
      .def("__enter__", &MapReuse::enter)
      .def("__exit__", [](MapReuse& self, const py::args&) { self.exit(); });
  m.def("empty_cache", &empty_cache, no_gil);
  m.def("conv_bias_grad", &conv_bias_grad, no_gil, py::arg("grad_output"));

  m.def("codes_to_indices", &codes_to_indices, no_gil, py::arg("codes"), py::arg("input_size"));
  m.def("indices_to_codes", &indices_to_codes, no_gil, py::arg("indices"), py::arg("input_size"));

#if defined(SEGNET_HOST_CUDA)
  // For the tests, what kind of GPU is pretended; returns what was before.
  m.def(
      "set_host_device",
      [](int arch, int64_t shared_limit) {
        const auto before = std::exchange(host_cuda::device(), {arch, shared_limit});
        return std::pair(before.arch, before.shared_limit);
      },
      py::arg("arch"), py::arg("shared_limit"));
#endif
}
