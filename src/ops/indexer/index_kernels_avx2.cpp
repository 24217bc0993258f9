#include "ops/attention/vector_avx2.h"
//
#include "ops/indexer/index_kernels_body.h"
//
#include "ops/indexer/fp4_keys_avx2.h"

namespace cachalot::ops {

static_assert(kPanelLanes % kIndexRunKeys == 0);
const IndexKernels kIndexAvx2 = {
    kKernels.prepare_queries, kKernels.query_stride, kKernels.pack_keys, pack_fp4_floats,
    kKernels.multiply,        kKernels.reduce,       kKernels.above};

}  // namespace cachalot::ops
