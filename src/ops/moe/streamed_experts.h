// The routed experts of a layer as a GPU's tensor cores stream them, and the layer's run with them:
// both products, SwiGLU, quantisation and the sum in one.
// Source, numerics  ops/moe/expert_layer_cuda.h, form official_fp8.
#pragma once

#include <cstdint>

#include "device/buffer.h"
#include "device/gpu.h"
#include "ops/moe/expert_products.h"

namespace cachalot::ops {

struct StreamedExperts {
  int64_t num_experts;
  int64_t hidden_size;
  int64_t moe_intermediate_size;
  device::Buffer gate_up;
  device::Buffer down;
  static constexpr int64_t kArrivals = 32;
  device::Buffer arrivals;  // [kArrivals], the kernels' own

  static bool can_stream(const PackedWeight& w1, const PackedWeight& w2);
  // Weights of a host, not needed afterwards. resource_exhausted; unsupported (streamed_fp4.h).
  static Result<StreamedExperts> create(device::Gpu& gpu, const ExpertWeightsRef& w1,
                                        const ExpertWeightsRef& w3, const ExpertWeightsRef& w2,
                                        int64_t num_experts);
};

// Rows are contiguous and hold values of bf16.
struct ExpertLayerRows {
  const StreamedExperts* experts;
  int64_t rows;
  int64_t k;             // num_experts_per_tok
  const float* x;        // [rows, hidden_size]; null: see x_bf16
  const int32_t* ids;    // [rows, k]
  const float* weights;  // [rows, k]
  float limit;           // swiglu_limit
  const float* shared;   // [rows, hidden_size]
  float* out;            // [rows, hidden_size]; null: see picks and out_bf16
  // Instead of out, where ids ascend within a row and are experts': [rows, k, hidden_size] for an
  // ExpertSum. Of up to kMaxExpertPairs pairs.
  uint16_t* picks = nullptr;
  // Instead of shared and out, in bf16.
  const uint16_t* shared_bf16 = nullptr;
  uint16_t* out_bf16 = nullptr;
  const uint16_t* x_bf16 = nullptr;  // x in bf16 instead
  // Beside the products that have just been launched (MatmulParams::lets_next_in), which of all
  // this write `shared` alone.
  bool runs_beside = false;
};
void expert_layer(device::ExecContext& ctx, const ExpertLayerRows& p);

}  // namespace cachalot::ops
