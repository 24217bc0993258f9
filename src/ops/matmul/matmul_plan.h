// How a matrix product is cut: a pure function of the printable problem. Cutting never changes a
// result's bits (matmul.h).
#pragma once

#include <cstdint>
#include <string>

#include "device/isa.h"
#include "ops/matmul/matmul.h"

namespace cachalot::ops {

struct MatmulProblem {
  int64_t m;
  int64_t n;
  int64_t k;
  WeightFormat format;
  MatmulMath math;
  device::Isa isa;
  int num_threads;
  int64_t panels_beside = 0;  // of other products that the threads share out with this one
};

struct MatmulPlan {
  int64_t m_block;  // rows of x in one task
  int64_t k_block;  // inputs decoded at a time: a multiple of 128
  // A thread's tasks are all panels of its rows; else some panels of all rows.
  bool by_rows = false;
};

MatmulPlan plan_matmul(const MatmulProblem& problem);
std::string to_string(const MatmulProblem& problem);
std::string to_string(const MatmulPlan& plan);

}  // namespace cachalot::ops
