#include "train/spike_detector.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace cachalot::train {
namespace {

// of the median: a loss that stands still is no spike's measure
constexpr double kLeastSpread = 0.001;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::string SpikeDetector::add(double loss, double grad_norm) {
  std::string spike;
  if (!std::isfinite(loss) || !std::isfinite(grad_norm)) {
    spike = fmt::format("loss {:.6g}, gradient norm {:.6g}: not finite", loss, grad_norm);
  } else if (static_cast<int64_t>(history_.size()) >= config_.min_steps) {
    std::vector<double> losses, norms;
    for (const Point& point : history_) {
      losses.push_back(point.loss);
      norms.push_back(point.grad_norm);
    }
    const double middle = median(losses);
    for (double& value : losses) value = std::abs(value - middle);
    const double bound =
        middle + config_.loss_mad * std::max(median(losses), kLeastSpread * std::abs(middle));
    const double norm_bound = config_.grad_norm_ratio * median(norms);
    if (loss > bound) {
      spike =
          fmt::format("loss {:.6g}: expected at most {:.6g}, median {:.6g}", loss, bound, middle);
    } else if (config_.grad_norm_ratio > 0 && grad_norm > norm_bound) {
      spike = fmt::format("gradient norm {:.6g}: expected at most {:.6g}", grad_norm, norm_bound);
    }
  }
  if (spike.empty()) {
    history_.push_back({loss, grad_norm});
    if (static_cast<int64_t>(history_.size()) > config_.window) history_.pop_front();
  }
  return spike;
}

}  // namespace cachalot::train
