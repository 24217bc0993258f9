// The experts' results of a layer before their last sum, for an op that does the sum as it reads.
// Numerics  ops/moe/expert_layer_cuda.h: from 0 a row's picks in turn, then shared, rounded to
//           bf16.
#pragma once

#include <cstdint>

namespace cachalot::ops {

struct ExpertSum {
  const uint16_t* picks;  // [rows, k, d] in bf16, by ascending expert id
  int64_t k;
  const float* shared;  // [rows, d]
};

}  // namespace cachalot::ops
