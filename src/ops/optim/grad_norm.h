// Sums of squares in double, for the global gradient norm, its clipping and the sizes of updates in
// logs.
// Source  reference/training 3.2 note 5 (clip the global norm at 1.0); reference/infrastructure 5.4
//         (the order is pinned).
// Numerics  Blocks of 4,096 values, each eight double sums by index modulo 8, folded ascending;
//         then the blocks ascending. Over several parameters: theirs, in the order given. Bits
//         depend on nothing else; NaN and infinity propagate. Plain code: it reads every value
//         once, and is a few thousandths of an optimizer step.
// Threads  concurrent calls need distinct ctx.
#pragma once

#include <cstdint>
#include <span>

#include "device/exec_context.h"

namespace cachalot::ops {

double sum_squares(device::ExecContext& ctx, std::span<const float> x);
double sum_squares(device::ExecContext& ctx, std::span<const std::span<const float>> arrays);

// sqrt(sum over all gradients of sum_squares).
double global_norm(device::ExecContext& ctx, std::span<const std::span<const float>> gradients);

// What gradients of this global norm are multiplied with: 1 up to max_norm, max_norm / norm above.
// max_norm 0: never clip. A norm that is not finite gives 1: clipping cannot mend such a step, the
// caller has to skip it.
float clip_factor(double norm, double max_norm);

}  // namespace cachalot::ops
