// The text of one entry's channels, compiled once per instruction set: included after
// vector_<isa>.h.
#pragma once

#include "ops/compressor/compressor_impl.h"

namespace cachalot::ops {
namespace {

struct Pooled {
  Vec::Reg max;
  Vec::Reg sum;
  Vec::Reg entry;
};

// at(row) loads a vector of channels.
template <typename Load>
[[gnu::always_inline]] inline Pooled pool_channels(const CompressSlots& slots, const Load& at) {
  Vec::Reg max = Vec::set1(-__builtin_inff());
  for (int64_t j = 0; j < slots.num_slots; ++j) max = Vec::max(at(slots.s[j]), max);
  Vec::Reg sum = Vec::zero();
  Vec::Reg weighted = Vec::zero();
  for (int64_t j = 0; j < slots.num_slots; ++j) {
    const Vec::Reg p = Vec::exp(Vec::sub(at(slots.s[j]), max));
    sum = Vec::add(sum, p);
    weighted = Vec::fma(p, at(slots.k[j]), weighted);
  }
  return {max, sum, Vec::div(weighted, sum)};
}

void compress_channels(const CompressSlots& slots, int64_t begin, int64_t end, float* out) {
  int64_t i = begin;
  for (; i + Vec::kLanes <= end; i += Vec::kLanes) {
    Vec::store(out + i,
               pool_channels(slots, [&](const float* row) { return Vec::load(row + i); }).entry);
  }
  if (i == end) return;
  const int64_t num_left = end - i;
  float tail[Vec::kLanes] = {};
  const Pooled pooled = pool_channels(slots, [&](const float* row) {
    for (int64_t lane = 0; lane < num_left; ++lane) tail[lane] = row[i + lane];
    return Vec::load(tail);
  });
  Vec::store(tail, pooled.entry);
  for (int64_t lane = 0; lane < num_left; ++lane) out[i + lane] = tail[lane];
}

// at(row) loads a vector of channels, put(row, x) stores one.
template <typename Load, typename Store>
[[gnu::always_inline]] inline void add_gradients(const CompressSlots& slots,
                                                 const CompressSlotGradients& gradients,
                                                 Vec::Reg d_out, const Load& at, const Store& put) {
  const Pooled pooled = pool_channels(slots, at);
  for (int64_t j = 0; j < slots.num_slots; ++j) {
    const Vec::Reg p = Vec::div(Vec::exp(Vec::sub(at(slots.s[j]), pooled.max)), pooled.sum);
    const Vec::Reg ds = Vec::mul(Vec::sub(at(slots.k[j]), pooled.entry), d_out);
    put(gradients.k[j], Vec::fma(p, d_out, at(gradients.k[j])));
    put(gradients.s[j], Vec::fma(p, ds, at(gradients.s[j])));
  }
}

void compress_gradients(const CompressSlots& slots, const CompressSlotGradients& gradients,
                        const float* d_out, int64_t begin, int64_t end) {
  int64_t i = begin;
  for (; i + Vec::kLanes <= end; i += Vec::kLanes) {
    add_gradients(
        slots, gradients, Vec::load(d_out + i),
        [&](const float* row) { return Vec::load(row + i); },
        [&](float* row, Vec::Reg x) { Vec::store(row + i, x); });
  }
  if (i == end) return;
  const int64_t num_left = end - i;
  float tail[Vec::kLanes] = {};
  const auto load = [&](const float* row) {
    for (int64_t lane = 0; lane < num_left; ++lane) tail[lane] = row[i + lane];
    return Vec::load(tail);
  };
  add_gradients(slots, gradients, load(d_out), load, [&](float* row, Vec::Reg x) {
    Vec::store(tail, x);
    for (int64_t lane = 0; lane < num_left; ++lane) row[i + lane] = tail[lane];
  });
}

}  // namespace
}  // namespace cachalot::ops
