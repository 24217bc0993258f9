// A matrix as forward and backward multiply by it, made of its fp32 master after every optimizer
// step.
// Source  reference/training 9.3; reference/infrastructure 6.
//         Quantisers are the exporter's (formats/block_quantize.h), so an exported checkpoint has
//         the same codes. The transpose that backward multiplies by holds the same codes and
//         scales: blocks of 128 x 128 are symmetric, nothing is quantised twice.
// Limit   Where scales of a block of 128 x 128 lie more than 2^11 apart (kMaxFp4ExponentSpread) the
//         step goes on and the block is counted; up to 2^14 its values are exact, beyond that the
//         smallest are rounded and the block counts as inexact: only then do trainer and exported
//         FP4 differ, by less than 2^-17 of the block's largest value.
// Numerics  pure functions of the master; independent of threads.
// Errors  invalid_argument: a master that is not finite, with its place.
#pragma once

#include "base/status.h"
#include "device/exec_context.h"
#include "formats/block_quantize.h"
#include "ops/matmul/packed_weight.h"
#include "train/training_precision.h"

namespace cachalot::train {

Status prepare_weight(device::ExecContext& ctx, PreparedFormat format,
                      const ops::FloatMatrix& master, ops::PackedWeight& weight,
                      ops::PackedWeight& transposed, formats::RecastCounts* recast);

// What the FP8 forms of a matrix are packed from: row-major codes and scales per 128 x 128.
struct Fp8Matrix {
  int64_t rows;
  int64_t columns;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;

  Fp8Matrix transposed() const;
  tensor::QuantTensor view() const;
};
// master contiguous (CHECK). fp8 or fp8_of_fp4 (CHECK).
Result<Fp8Matrix> quantize_weight(device::ExecContext& ctx, PreparedFormat format,
                                  const ops::FloatMatrix& master, formats::RecastCounts* recast);

}  // namespace cachalot::train
