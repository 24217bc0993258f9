// One float with the functions of F32x16 (f32x16_avx2.h) that work lane by lane: a kernel that
// gives each row a lane is written once and compiled for both (hyper/hyper_split_lanes.h), and a
// row has the same bits either way.
#pragma once

#include <cmath>
#include <cstdint>

#include "ops/elementwise/exp.h"

namespace cachalot::ops {
namespace {

struct F32x1 {
  float v;
};

inline F32x1 splat(float value) { return {value}; }
inline F32x1 load(const float* p) { return {*p}; }
inline void store(float* p, F32x1 a) { *p = a.v; }

inline F32x1 operator+(F32x1 a, F32x1 b) { return {a.v + b.v}; }
inline F32x1 operator-(F32x1 a, F32x1 b) { return {a.v - b.v}; }
inline F32x1 operator*(F32x1 a, F32x1 b) { return {a.v * b.v}; }
inline F32x1 operator/(F32x1 a, F32x1 b) { return {a.v / b.v}; }
inline F32x1 fma(F32x1 a, F32x1 b, F32x1 c) { return {std::fma(a.v, b.v, c.v)}; }
// Where either is NaN, the second.
inline F32x1 max(F32x1 a, F32x1 b) { return {a.v > b.v ? a.v : b.v}; }
inline F32x1 exp(F32x1 a) { return {exp_f32(a.v)}; }

}  // namespace
}  // namespace cachalot::ops
