// The kernels and what starts them. No torch header is seen here: for each architecture they would take longer to
// read than the kernels to compile.
#include "max_pool2d_with_codes/max_pool2d_with_codes_kernel.cuh"
