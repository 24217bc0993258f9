#include "verify/digest.h"

#include <cmath>
#include <cstring>

#include "base/check.h"

namespace cachalot::verify {
namespace {

uint64_t splitmix64(uint64_t index) {
  uint64_t z = (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

std::vector<double> signed_sums(std::span<const float> values, int64_t num_sums) {
  CACHALOT_CHECK(num_sums >= 0 && num_sums <= kMaxSums);
  std::vector<double> sums(static_cast<size_t>(num_sums));
  for (size_t j = 0; j < values.size(); ++j) {
    const uint64_t bits = splitmix64(j);
    for (size_t k = 0; k < sums.size(); ++k) sums[k] += bits >> k & 1 ? -values[j] : values[j];
  }
  return sums;
}

double estimated_distance(std::span<const double> expected, std::span<const double> found) {
  CACHALOT_CHECK(expected.size() == found.size() && !expected.empty());
  double squares = 0;
  for (size_t k = 0; k < expected.size(); ++k)
    squares += (found[k] - expected[k]) * (found[k] - expected[k]);
  return std::sqrt(squares / static_cast<double>(expected.size()));
}

std::vector<double> to_doubles(const tensor::TensorView& view) {
  CACHALOT_CHECK(view.dtype == tensor::DType::f64);
  std::vector<double> out(static_cast<size_t>(view.num_elements()));
  if (!out.empty()) std::memcpy(out.data(), view.data, out.size() * sizeof(double));
  return out;
}

std::vector<float> moved(std::span<const float> values, double distance) {
  std::vector<float> out(values.begin(), values.end());
  const double step = distance / std::sqrt(static_cast<double>(out.size()));
  for (size_t j = 0; j < out.size(); ++j)
    out[j] = static_cast<float>(out[j] + (splitmix64(j) >> kMaxSums & 1 ? -step : step));
  return out;
}

}  // namespace cachalot::verify
