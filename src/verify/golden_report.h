// One line per check, and the worst element of a comparison.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/tensor_view.h"

namespace cachalot::verify {

// Prints "ok   name: detail" or "FAIL name: detail" and remembers whether all held.
class GoldenReport {
 public:
  void check(bool holds, const std::string& name, const std::string& detail);
  // Prints "info name: detail": a measure that nothing is asked of.
  static void inform(const std::string& name, const std::string& detail);
  bool all_hold() const { return failed_.empty(); }
  int64_t num_checks() const { return num_checks_; }
  const std::vector<std::string>& failed() const { return failed_; }  // names

 private:
  int64_t num_checks_ = 0;
  std::vector<std::string> failed_;
};

struct WorstElement {
  double error = 0.0;  // largest |found - expected|; infinity where one is NaN and the other is not
  int64_t index = 0;
  float expected = 0.0f;
  float found = 0.0f;
};
WorstElement worst_element(std::span<const float> expected, std::span<const float> found);

// "worst 1.2e-05 at [0, 3, 7], expected 1.5, found 1.50001"
std::string describe(const WorstElement& worst, const tensor::Shape& shape);

}  // namespace cachalot::verify
