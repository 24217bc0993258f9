// The numerics contract as data: which roundings the forward pass makes. The named levels
// (design.md 2):
//   exact     fp32 activations, nothing rounded; weights at the values their files hold.
//   bf16      activations rounded to bf16 wherever the published code stores bf16; no FP8 or FP4
//             simulation.
//   official  bf16 plus the FP8 and FP4 rounding points of the published code (reference/forward
//             0.4, 0.5, 3.9).
//   official-fp8  the same roundings, on a GPU alone: where shapes fit, products with FP8 and FP4
//             weights run on FP8 tensor cores, those with bf16 weights, mHC's mixes, attention and
//             the indexer's scores on bf16 ones, which truncate their sums
//             (ops/matmul/streamed_product.cuh; *_cuda.h of the ops).
// Accumulation is fp32 in every other level. Activations have fp32 storage; rounding to bf16 rounds
// the value.
#pragma once

#include <string_view>

#include "base/status.h"
#include "tensor/rows.h"

namespace cachalot::model {

struct Precision {
  bool bf16 = false;          // round activations to bf16; products of bf16 pairs
  bool act8 = false;          // FP8 rounding of the inputs of quantised linears (ACT8)
  bool rotate_index = false;  // Hadamard rotation of indexer queries and keys
  bool index_fp4 = false;     // FP4 rounding of indexer queries (SIM4)
  bool fp8_cores = false;     // of a GPU; and its bf16 ones, as above
  tensor::KvFormat kv = tensor::KvFormat::f32;
  tensor::IndexFormat index = tensor::IndexFormat::f32;

  static Precision exact() { return {}; }
  static Precision bfloat16() {
    return {true, false, false, false, false, tensor::KvFormat::bf16, tensor::IndexFormat::bf16};
  }
  static Precision official() {
    return {true, true, true, true, false, tensor::KvFormat::fp8, tensor::IndexFormat::fp4};
  }
  static Precision official_fp8() {
    Precision precision = official();
    precision.fp8_cores = true;
    return precision;
  }
};

// "exact", "bf16", "official", "official-fp8"
Result<Precision> parse_precision(std::string_view name);

}  // namespace cachalot::model
