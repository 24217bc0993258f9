// A row's choice of experts (ops/moe/router.h) by a block, or a warp, on the GPU.
#pragma once

#include "ops/moe/router.h"
#include "ops/rows/thread_group.cuh"
#include "tile/copy.cuh"
#include "tile/first_turn.cuh"
#include "tile/order.cuh"

namespace cachalot::ops::router {

inline constexpr int kMaxChoices = 64;
inline constexpr int kMaxExperts = 4096;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ float score(float logit) {
  const double v = logit;
  return static_cast<float>(sqrt(v > 20 ? v : log1p(exp(v))));
}

// Larger choices have larger keys; those of NaN and -inf are 1, and none is 0.
__device__ __forceinline__ uint32_t key_of(float choice) {
  const uint32_t bits = __float_as_uint(choice + 0.0f);  // -0 becomes 0
  const bool last = choice != choice || bits == 0xFF800000u;
  return last ? 1 : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}

// By warp 0: the k largest of the keys, of which a lane has kOwn in registers; of equal ones the
// lowest ids.
template <int kOwn>
__device__ inline void choose(const uint32_t* keys, int num_experts, int k, int32_t* ids) {
  const int lane = threadIdx.x % 32;
  uint32_t own[kOwn];  // 0: taken, or no expert
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own[i] = i * 32 + lane < num_experts ? keys[i * 32 + lane] : 0;
  for (int i = 0; i < k; ++i) {
    uint32_t best = 0;
#pragma unroll
    for (const uint32_t key : own) best = max(best, key);
    best = __reduce_max_sync(kAllLanes, best);
    int first = kOwn * 32;
#pragma unroll
    for (int j = kOwn - 1; j >= 0; --j) first = own[j] == best ? j * 32 + lane : first;
    first = __reduce_min_sync(kAllLanes, first);
#pragma unroll
    for (int j = 0; j < kOwn; ++j) own[j] = j * 32 + lane == first ? 0 : own[j];
    if (lane == 0) ids[i] = first;
  }
  __syncwarp();
}

struct Choices {  // shared memory
  int32_t chosen[kMaxChoices];
  float scores[kMaxChoices];
};

// By a group, of up to kMost experts. values: shared memory, two an expert: its score, and its key.
// Waits for the kernels before, unless they have ended.
template <typename Group, int kMost>
__device__ __forceinline__ void route_row(const RouterParams& p, int64_t row, uint32_t* values,
                                          Choices& choices, bool have_ended = false) {
  auto& [chosen, scores] = choices;
  const int num_experts = static_cast<int>(p.n_routed_experts);
  const int k = static_cast<int>(p.num_experts_per_tok);
  const float* logits = p.logits + row * num_experts;
  const int lane = Group::thread();
#pragma unroll 1
  for (int turn = have_ended ? 1 : tile::first_turn(p.rows); turn < 2; ++turn) {
    const bool is_real = turn == 1;
    if (is_real && !have_ended) tile::wait_for_producers();
    if (p.fixed_ids == nullptr) {
      for (int e = Group::thread(); e < num_experts; e += Group::kCount) {
        const float value = score(tile::load_shared_state(logits + e));
        values[e] = __float_as_uint(value);
        values[num_experts + e] = key_of(value + (p.bias != nullptr ? p.bias[e] : 0.0f));
      }
      Group::sync();
    }
    if (Group::thread() < 32) {
      if (p.fixed_ids == nullptr) {
        if (num_experts <= 256) {
          choose<8>(values + num_experts, num_experts, k, chosen);
        } else {
          choose<kMost / 32>(values + num_experts, num_experts, k, chosen);
        }
      } else {
        for (int i = lane; i < k; i += 32)
          chosen[i] = is_real ? tile::load_shared_state(p.fixed_ids + row * k + i) : 0;
        __syncwarp();
      }
      // Ascending: an id's place is the number of those below it, and of equal ones before it.
      for (int i = lane; i < k; i += 32) {
        int place = 0;
        for (int j = 0; j < k; ++j)
          place += chosen[j] < chosen[i] || (chosen[j] == chosen[i] && j < i);
        if (is_real) p.ids[row * k + place] = chosen[i];
        scores[place] = p.fixed_ids == nullptr ? __uint_as_float(values[chosen[i]])
                                               : score(tile::load_shared_state(logits + chosen[i]));
      }
      __syncwarp();
      float total = 0;
      for (int i = 0; i < k; ++i) total += scores[i];
      for (int i = lane; i < k; i += 32) {
        const float weight = scores[i] / (1e-20f + total) * p.routed_scaling_factor;
        if (is_real) p.weights[row * k + i] = weight;
      }
    }
    Group::sync();
  }
}

}  // namespace cachalot::ops::router
