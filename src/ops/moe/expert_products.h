// The products of the routed experts: each pair's row times its expert's weights.
// Source  reference/forward 4.3.
// Shapes  x [*, K], row x_rows[i] of it for pair i, or row i where x_rows is null; first_pair
//         [experts + 1] as dispatch() makes it; y [pairs, N] of each part. Weights of one part have
//         one shape and one format.
// Numerics  those of matmul.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/exec_context.h"
#include "ops/matmul/matmul.h"

namespace cachalot::ops {

// One weight of each of many experts, found at a fixed distance in memory.
struct ExpertWeightsRef {
  const PackedWeight* first;
  int64_t stride_bytes;

  const PackedWeight& operator[](int64_t expert) const {
    return *reinterpret_cast<const PackedWeight*>(reinterpret_cast<const std::byte*>(first) +
                                                  expert * stride_bytes);
  }
};

struct ExpertProductsParams {
  struct Part {
    ExpertWeightsRef weights;
    float* y;
    int64_t y_stride;
  };
  static constexpr int kMaxParts = 2;

  const float* x;
  int64_t x_stride;
  const int32_t* x_rows;
  const int64_t* first_pair;
  int64_t num_pairs;
  int64_t num_experts;
  int num_parts;
  Part parts[kMaxParts];
  MatmulMath math;
  bool round_y;
};

// The same as products of the experts that have pairs, on the CPU: for grouped_matmul. out has room
// for num_parts of each expert; returns their number.
int64_t list_expert_products(const ExpertProductsParams& p, MatmulParams* out);

// What the products are, whichever expert has a pair.
void count_expert_products(const ExpertProductsParams& p, device::Work& work);

}  // namespace cachalot::ops
