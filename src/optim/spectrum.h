// Singular values of a matrix, for tests and logs.
// Numerics  One-sided Jacobi rotations in double on the shorter side until every pair of vectors is
//         orthogonal to 1e-14: relative accuracy of about 1e-13 of the largest value. Plain loops,
//         n^2 m per sweep and some eight sweeps: for matrices up to a few hundred rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cachalot::optim {

// Of x [rows, columns], contiguous; min(rows, columns) values, largest first.
std::vector<double> singular_values(std::span<const float> x, int64_t rows, int64_t columns);

}  // namespace cachalot::optim
