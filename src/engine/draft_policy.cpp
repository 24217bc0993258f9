#include "engine/draft_policy.h"

#include <algorithm>

namespace cachalot::engine {
namespace {

constexpr double kWeight = 0.1;       // of one draft's fate
constexpr int64_t kFirstPause = 32;   // steps without drafts; the value of pause_ at first
constexpr int64_t kLastPause = 1024;  // doubled up to here: tries cost at most one step in 128
constexpr int64_t kTries = 8;

}  // namespace

void DraftPolicy::record(int64_t drafted, int64_t accepted) {
  // Drafts after the first that fell have shown nothing.
  for (int64_t i = 0; i < std::min(drafted, accepted + 1); ++i)
    acceptance_ += kWeight * ((i < accepted ? 1.0 : 0.0) - acceptance_);
}

int64_t DraftPolicy::best(const CostModel& cost, int64_t num_sequences) const {
  int64_t best = 0;
  double best_rate = 0, tokens = 0, chance = 1;
  for (int64_t k = 0; k <= most_; ++k) {
    tokens += chance;  // the expected number, of a sequence
    chance *= acceptance_;
    const double seconds =
        cost.step.seconds(num_sequences * (1 + k)) +
        (k > 0 ? static_cast<double>(k) * cost.draft_pass.seconds(num_sequences) : 0.0);
    if (tokens > best_rate * seconds) {
      best_rate = tokens / seconds;
      best = k;
    }
  }
  return best;
}

int64_t DraftPolicy::wanted(const CostModel& cost, int64_t num_sequences) {
  if (!adapts_ || most_ == 0 || !cost.step.is_known() || !cost.draft_pass.is_known()) return most_;
  const int64_t paying = best(cost, num_sequences);
  if (paying > 0) {
    pause_ = kFirstPause;
    idle_steps_ = tries_left_ = 0;
    return paying;
  }
  if (tries_left_ > 0) {
    --tries_left_;
    return 1;
  }
  if (++idle_steps_ < pause_) return 0;
  idle_steps_ = 0;
  pause_ = std::min(2 * pause_, kLastPause);
  tries_left_ = kTries - 1;
  return 1;
}

}  // namespace cachalot::engine
