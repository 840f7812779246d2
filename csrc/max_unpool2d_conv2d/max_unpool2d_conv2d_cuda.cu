// The kernels and what starts them. No torch header is seen here: for each architecture they would take longer to
// read than the kernels to compile.
#include "max_unpool2d_conv2d/max_unpool2d_conv2d_kernel.cuh"
