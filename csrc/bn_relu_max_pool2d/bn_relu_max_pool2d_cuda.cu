// The kernels and what starts them. No torch header is seen here: for each architecture they would take longer to
// read than the kernels to compile.
#include "bn_relu_max_pool2d/bn_relu_max_pool2d_kernel.cuh"
