#include "ops/attention/vector_avx2.h"
//
#include "ops/attention/backward_kernels_body.h"

namespace cachalot::ops {

const BackwardKernels kBackwardAvx2 = kKernels;

}  // namespace cachalot::ops
