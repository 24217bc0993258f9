#include "ops/attention/vector_avx512.h"
//
#include "ops/attention/backward_kernels_body.h"

namespace cachalot::ops {

const BackwardKernels kBackwardAvx512 = kKernels;

}  // namespace cachalot::ops
