#include "bn_relu/bn_relu.h"

#include "bn_relu/bn_relu_launch.h"
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_workspace.h"
#include "common/cuda_context.h"
#include "segnet_ext/checks.h"

namespace segnet_ext::bn_relu {

void forward_cuda(const at::Tensor& input, const bn_relu_max_pool2d::Norm& norm, at::Tensor& output) {
  CudaContext context(input);
  launch_forward(context.launcher(), to_dtype(input.scalar_type()),
                 {input.numel() / input.size(1), input.size(1), context.read(input, "input"),
                  bn_relu_max_pool2d::read_norm(context, norm), context.write(output, "output")});
}

void backward_cuda(const at::Tensor& grad_output, const at::Tensor& input, const bn_relu_max_pool2d::Norm& norm,
                   bool batch_statistics, at::Tensor& grad_input, at::Tensor& grad_weight, at::Tensor& grad_bias) {
  CudaContext context(input);
  const DType dtype = to_dtype(input.scalar_type());
  PoolShape shape{};
  shape.batch = input.size(0);
  shape.channels = input.size(1);
  shape.height = input.size(2);
  shape.width = input.size(3);
  const bn_relu_max_pool2d::GradsWorkspace workspace(norm, backward_parts(dtype, shape.pixels(), shape.channels));
  BackwardParams params = workspace.params(context, norm, batch_statistics, grad_weight, grad_bias);
  params.shape = shape;
  params.grad_output = context.read(grad_output, "grad_output");
  params.input = context.read(input, "input");
  params.grad_input = context.write(grad_input, "grad_input");
  bn_relu::launch_backward(context.launcher(), dtype, params);  // qualified: the parameters are the pool's, too
}

}  // namespace segnet_ext::bn_relu
