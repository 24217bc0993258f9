// The fp8 product for so many rows that a weight is first laid out anew: the forms official_fp8 and
// unquantised of dense_product_cuda.h with the same bits. A block takes 128 outputs of 256 rows of
// x at a time, both of which the tensor cores read from shared memory.
#pragma once

#include "ops/matmul/dense_product_cuda.h"

namespace cachalot::ops {

// Where such blocks for most multiprocessors come out. official_fp8: one x is read by all.
bool dense_bulk_fits(const DenseShape& shape, int64_t num_sms);
// Of a plan that has its shape: the rest.
void plan_dense_bulk(DensePlan& plan, int64_t num_sms);

// Of a group's laid weight: blocks, each with a scale, and a block's bytes.
int64_t dense_bulk_blocks(const DenseGroup& group, const DenseShape& shape);
int64_t dense_bulk_block_bytes(const DenseShape& shape);

}  // namespace cachalot::ops
