// The numerics contract as data: which roundings the forward pass makes. Three named levels
// (design.md 2):
//   exact     fp32 activations, nothing rounded; weights at the values their files hold.
//   bf16      activations rounded to bf16 wherever the published code stores bf16; no FP8 or FP4
//             simulation.
//   official  bf16 plus the FP8 and FP4 rounding points of the published code (reference/forward
//             0.4, 0.5, 3.9).
// Accumulation is fp32 in every level. Activations have fp32 storage; rounding to bf16 rounds the
// value.
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
  tensor::KvFormat kv = tensor::KvFormat::f32;
  tensor::IndexFormat index = tensor::IndexFormat::f32;

  static Precision exact() { return {}; }
  static Precision bfloat16() {
    return {true, false, false, false, tensor::KvFormat::bf16, tensor::IndexFormat::bf16};
  }
  static Precision official() {
    return {true, true, true, true, tensor::KvFormat::fp8, tensor::IndexFormat::fp4};
  }
};

Result<Precision> parse_precision(std::string_view name);  // "exact", "bf16", "official"

}  // namespace cachalot::model
