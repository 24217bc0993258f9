// Many numbers held to one bound: the worst of them is reported in one line.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "verify/golden_report.h"

namespace cachalot::verify {

class Closeness {
 public:
  // relative: |found - expected| / |expected|, absolute where 0 is expected.
  enum class Measure { absolute, relative };
  Closeness(std::string name, double bound, Measure measure)
      : name_(std::move(name)), bound_(bound), measure_(measure) {}

  void add(double expected, double found);
  void add(std::span<const double> expected, std::span<const double> found);  // as many of both
  // Fails where a number is off by more than the bound or is NaN, where counts differ, and where
  // nothing was compared.
  void report(GoldenReport& report) const;

 private:
  std::string name_;
  double bound_;
  Measure measure_;
  int64_t count_ = 0;
  double worst_ = 0;
  int64_t worst_at_ = -1;
  double worst_expected_ = 0, worst_found_ = 0;
  bool counts_differ_ = false;
};

}  // namespace cachalot::verify
