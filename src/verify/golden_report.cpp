#include "verify/golden_report.h"

#include <fmt/core.h>

#include <cmath>
#include <cstdio>
#include <limits>

namespace cachalot::verify {

void GoldenReport::check(bool holds, const std::string& name, const std::string& detail) {
  ++num_checks_;
  if (!holds) failed_.push_back(name);
  fmt::print("{} {}: {}\n", holds ? "ok  " : "FAIL", name, detail);
  std::fflush(stdout);
}

void GoldenReport::inform(const std::string& name, const std::string& detail) {
  fmt::print("info {}: {}\n", name, detail);
}

WorstElement worst_element(std::span<const float> expected, std::span<const float> found) {
  CACHALOT_CHECK(expected.size() == found.size());
  WorstElement worst;
  for (size_t i = 0; i < expected.size(); ++i) {
    double error = std::fabs(static_cast<double>(found[i]) - expected[i]);
    if (std::isnan(error)) {
      const bool both = std::isnan(expected[i]) && std::isnan(found[i]);
      error = both ? 0.0 : std::numeric_limits<double>::infinity();
    }
    if (error > worst.error || i == 0)
      worst = {error, static_cast<int64_t>(i), expected[i], found[i]};
  }
  return worst;
}

std::string describe(const WorstElement& worst, const tensor::Shape& shape) {
  tensor::Shape at(shape.size());
  int64_t rest = worst.index;
  for (size_t axis = shape.size(); axis-- > 0;) {
    at[axis] = rest % shape[axis];
    rest /= shape[axis];
  }
  return fmt::format("worst {:.3g} at {}, expected {:.8g}, found {:.8g}", worst.error,
                     tensor::shape_string(at), worst.expected, worst.found);
}

}  // namespace cachalot::verify
