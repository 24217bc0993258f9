// What a golden set keeps of values that it does not keep one by one: sums of them with random
// signs.
// Signs   Element j counts negatively in sum k where bit k of the j-th output of splitmix64,
//         started at 0, is set.
// Use     For two vectors whose difference e does not depend on the signs, the square of a sum's
//         difference is |e|^2 on average: the root of the mean over the sums estimates |e|. A
//         single wrong element is seen whole in every sum. With 4 sums the estimate is below a
//         tenth of |e| in one case of 1,000, with 16 in none of 10^12.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor_view.h"

namespace cachalot::verify {

constexpr int64_t kMaxSums = 32;

// num_sums at most kMaxSums. Any thread.
std::vector<double> signed_sums(std::span<const float> values, int64_t num_sums);

// The norm of the difference of two vectors, from their sums (as many of both).
double estimated_distance(std::span<const double> expected, std::span<const double> found);

// The elements of an f64 tensor; CHECK on others.
std::vector<double> to_doubles(const tensor::TensorView& view);

// `values` moved by a vector of that norm whose signs no sum uses.
std::vector<float> moved(std::span<const float> values, double distance);

}  // namespace cachalot::verify
