// The matrix product for AVX-512: matmul_simd.h over sixteen lanes.
#include "ops/matmul/matmul_simd.h"
#include "ops/matmul/round_simd.h"

namespace cachalot::ops {

const MatmulKernels kMatmulAvx512 = {
    {pack_rows_transposed_f32, pack_rows_transposed_bf16, pack_rows_f32, pack_rows_bf16},
    prepared_x_bytes,
    prepare_x,
    prepare_columns,
    scratch_bytes,
    kTiledRows,
    run,
    round_rows};

}  // namespace cachalot::ops
