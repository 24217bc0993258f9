// The fp8 product for more than a few rows: the forms official_fp8 and unquantised of
// dense_product_cuda.h with the same bits. x is brought into the tensor core's order before. Codes:
// a pair of blocks takes 128 outputs each and the same 64 or 128 rows of x at a time, chain after
// chain. Unquantised: a block 32 outputs and up to 64 rows, its warps a chain each.
#pragma once

#include "ops/matmul/dense_product_cuda.h"

namespace cachalot::ops {

// Where a block for most multiprocessors comes out. official_fp8: one x is read by all;
// unquantised: rows are floats.
bool dense_many_fits(const DenseShape& shape, int64_t num_sms);
bool dense_many_takes_bf16(const DenseShape& shape, int64_t num_sms);
// Of a plan that has its shape: the rest.
void plan_dense_many(DensePlan& plan, int64_t num_sms);
void launch_dense_many(const DensePlan& plan, const device::cuda::Stream& stream, const void* x,
                       int64_t x_stride, std::span<const DenseGroup> groups, std::byte* scratch,
                       const LaunchOrder& order);

}  // namespace cachalot::ops
