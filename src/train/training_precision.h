// How a training run rounds: what weights are prepared from the fp32 masters, and the numerics of
// forward and backward.
// Source  reference/training 6.8 (FP8 recipe), 9 (FP4 QAT); reference/infrastructure 6.
//         level  weights as the forward pass multiplies them             activations
//                (model/precision.h)
//         fp32   the masters                                             exact
//         bf16   bf16, but for what public files keep in fp32            bf16
//         fp8    linears and routed experts E4M3 with a power-of-two     official: FP8 inputs of
//                linears and KV rows, FP4 indexer scale per 128 x 128; the rest as bf16
//         qat    (of fp8) routed experts FP4 1 x 32 first, then the      official
//                same values in E4M3
//         So every level computes what the server computes at that model precision from the
//         checkpoint that formats/convert makes of the masters (f32, bf16, quantized with FP8 or
//         FP4 experts), bit for bit; and qat differs from fp8 in prepared weights alone: the FP4
//         simulation of the indexer's queries and keys belongs to both.
// Straight through  Every rounding passes its gradient unchanged, unmasked where a value was
//         clamped: weights (their gradient goes to the master), inputs of quantised linears, bf16
//         results, KV rows (gradients are those of the decoded values), indexer queries and keys
//         (through the rotation, transposed). What backward itself rounds: autograd/matmul_grad.h.
//         Attention core, norms, router, mHC, compressor pooling and all LINF products (head, gate,
//         compressors) run backward in fp32.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "formats/inventory.h"
#include "model/precision.h"
#include "ops/matmul/packed_weight.h"

namespace cachalot::train {

struct TrainingPrecision {
  enum class Level { fp32, bf16, fp8 };
  Level level = Level::fp32;
  bool qat = false;

  static TrainingPrecision fp32() { return {}; }
  static TrainingPrecision bf16() { return {Level::bf16, false}; }
  static TrainingPrecision fp8() { return {Level::fp8, false}; }
  static TrainingPrecision fp4_qat() { return {Level::fp8, true}; }

  model::Precision activations() const;
  // Errors  qat without level fp8.
  Status validate() const;
};

// "fp32", "bf16" or "fp8".
Result<TrainingPrecision> parse_training_precision(std::string_view level, bool qat);

// What becomes of a tensor's master.
enum class PreparedFormat { f32, bf16, fp8, fp8_of_fp4 };
PreparedFormat prepared_format(const TrainingPrecision& precision, const formats::TensorInfo& info);

}  // namespace cachalot::train
