// The limits of matrix products on a GPU: what its tensor cores do with operands that lie in shared
// memory.
#pragma once

#include "base/status.h"

namespace cachalot::bench {

// FLOPs a second, a multiply-add being two.
struct MatrixRates {
  double bf16;
  double e4m3;
};

// Of numbers that are about normal, in the second half of so many seconds: under load a card lowers
// its clock to keep within its power. unsupported: as Gpu::open().
Result<MatrixRates> gpu_matrix_rates(int ordinal, double seconds);

}  // namespace cachalot::bench
