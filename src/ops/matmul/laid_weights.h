// Weights laid anew ahead of products of very many rows, on a GPU alone: all of a sublayer's in one
// launch, instead of each by its product. A product that is given such a weight
// (MatmulParams::laid) has the bits that it has without. It takes them where they are those of a
// launch, in its order and one after the other; else it lays them itself. A CPU has no such order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "device/exec_context.h"
#include "ops/matmul/matmul.h"

namespace cachalot::ops {

inline constexpr int kMaxLaidWeights = 16;

// In the order of their products.
struct WeightsToLay {
  std::array<const PackedWeight*, kMaxLaidWeights> weights = {};
  int count = 0;

  void add(const PackedWeight& weight) { weights.at(static_cast<size_t>(count++)) = &weight; }
  std::span<const PackedWeight* const> all() const {
    return {weights.data(), static_cast<size_t>(count)};
  }
};

struct LaidWeight {
  const PackedWeight* weight = nullptr;
  const std::byte* codes = nullptr;
  const float* scales = nullptr;
};
struct LaidWeights {
  std::array<LaidWeight, kMaxLaidWeights> weights = {};
  int count = 0;

  // Null: it is not among them.
  const LaidWeight* find(const PackedWeight& weight) const {
    for (int i = 0; i < count; ++i) {
      if (weights[static_cast<size_t>(i)].weight == &weight)
        return &weights[static_cast<size_t>(i)];
    }
    return nullptr;
  }
};

// Whether products of one launch read weights that are laid anew. Of each w, m, math and round_y
// count. shared_x: they read one x.
bool products_lay_weights(const device::ExecContext& ctx, std::span<const MatmulParams> products,
                          bool shared_x = false);

int64_t laid_bytes(const WeightsToLay& weights);
// place: laid_bytes, 16-byte aligned, until the products have run. runs_beside: the kernel before
// lets this one in (ops/hyper/hyper_boundary.h) and touches nothing of the place. CHECK: weights
// are streamed fp8.
LaidWeights lay_weights(device::ExecContext& ctx, const WeightsToLay& weights, std::byte* place,
                        bool runs_beside);

}  // namespace cachalot::ops
