#include "engine/draft_policy.h"

#include <algorithm>

namespace cachalot::engine {
namespace {

constexpr double kWeight = 0.1;  // of one draft's fate
// What drafts must promise over none: less is within what the estimates err.
constexpr double kLeastGain = 1.03;
constexpr double kWeightOfAnswer = 0.3;
// A try costs up to the time of a step: these keep all of them below one step in a hundred.
constexpr int64_t kFirstPause = DraftHistory().pause;  // steps without drafts
constexpr int64_t kLastPause = 4096;                   // doubled up to here
constexpr int64_t kTries = 2;

}  // namespace

void DraftHistory::learn_from(const DraftHistory& ended, int64_t most) {
  for (int64_t place = 0; place < std::min(most, kPlaces); ++place)
    learn(place, ended.of(place), kWeightOfAnswer);
  idle_steps = ended.idle_steps;
  pause = ended.pause;
}

void DraftPolicy::record(int64_t drafted, int64_t accepted) {
  // Drafts after the first that fell have shown nothing.
  for (int64_t i = 0; i < std::min(drafted, accepted + 1); ++i)
    history_.learn(i, i < accepted ? 1.0 : 0.0, kWeight);
}

int64_t DraftPolicy::best(const CostModel& cost, int64_t num_sequences) const {
  int64_t best = 0;
  double best_rate = 0, tokens = 0, chance = 1;
  for (int64_t k = 0; k <= most_; ++k) {
    tokens += chance;  // the expected number, of a sequence
    chance *= history_.of(k);
    const double seconds =
        cost.decode.seconds(num_sequences * (1 + k)) +
        (k > 0 ? static_cast<double>(k) * cost.draft_pass.seconds(num_sequences) : 0.0);
    const double rate = tokens / seconds;
    if (rate <= best_rate) continue;
    best = k;
    best_rate = k == 0 ? kLeastGain * rate : rate;
  }
  return best;
}

int64_t DraftPolicy::wanted(const CostModel& cost, int64_t num_sequences) {
  if (!adapts_ || most_ == 0) return most_;
  if (!cost.decode.is_known(num_sequences)) return 0;
  if (!cost.draft_pass.is_known(num_sequences) && first_tries_ > 0) {
    --first_tries_;
    return 1;
  }
  const int64_t paying = best(cost, num_sequences);
  if (paying > 0) {
    history_.pause = kFirstPause;
    history_.idle_steps = tries_left_ = 0;
    return paying;
  }
  if (tries_left_ > 0) {
    --tries_left_;
    return 1;
  }
  if (++history_.idle_steps < history_.pause) return 0;
  history_.idle_steps = 0;
  history_.pause = std::min(2 * history_.pause, kLastPause);
  tries_left_ = kTries - 1;
  return 1;
}

}  // namespace cachalot::engine
