// The kernels and what starts them. No torch header is seen here: for each architecture they would take longer to
// read than the kernels to compile.
#include "indices_to_codes/indices_to_codes_kernel.cuh"
