#include "verify/closeness.h"

#include <fmt/format.h>

#include <cmath>

namespace cachalot::verify {

void Closeness::add(double expected, double found) {
  double error = std::abs(found - expected);
  if (measure_ == Measure::relative && expected != 0) error /= std::abs(expected);
  if (std::isnan(error)) error = HUGE_VAL;
  if (worst_at_ < 0 || error > worst_) {
    worst_ = error;
    worst_at_ = count_;
    worst_expected_ = expected;
    worst_found_ = found;
  }
  ++count_;
}

void Closeness::add(std::span<const double> expected, std::span<const double> found) {
  if (expected.size() != found.size()) {
    counts_differ_ = true;
    return;
  }
  for (size_t i = 0; i < expected.size(); ++i) add(expected[i], found[i]);
}

void Closeness::report(GoldenReport& report) const {
  if (count_ == 0 || counts_differ_) {
    report.check(false, name_, counts_differ_ ? "more or fewer values than expected" : "no values");
    return;
  }
  report.check(worst_ <= bound_, name_,
               fmt::format("{} values, worst off by {:.2g} (bound {}): value {}, expected {:.12g}, "
                           "found {:.12g}",
                           count_, worst_, bound_, worst_at_, worst_expected_, worst_found_));
}

}  // namespace cachalot::verify
