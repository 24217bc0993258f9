// Tells a loss spike: the loss far above its recent median, or the gradient norm far above its own.
// Source  reference/training 7.1 (the report names no detector; these are its suggested defaults).
// A spike of the loss: loss > median + loss_mad * max(MAD, 0.001 median), over the last `window`
// steps; of the gradient norm: grad_norm > grad_norm_ratio * median. A value that is not finite is
// a spike. Steps that were spikes do not enter the window, and nothing is told before min_steps
// have.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

namespace cachalot::train {

struct SpikeConfig {
  int64_t window = 200;
  int64_t min_steps = 20;
  double loss_mad = 6;
  double grad_norm_ratio = 5;  // 0: the norm is not watched
};

class SpikeDetector {
 public:
  explicit SpikeDetector(const SpikeConfig& config) : config_(config) {}

  // Of the step just run; what it was that stood out, with both values, or empty.
  std::string add(double loss, double grad_norm);

  // What a checkpoint keeps.
  struct Point {
    double loss, grad_norm;
  };
  const std::deque<Point>& history() const { return history_; }
  void restore(std::deque<Point> history) { history_ = std::move(history); }

 private:
  SpikeConfig config_;
  std::deque<Point> history_;
};

}  // namespace cachalot::train
