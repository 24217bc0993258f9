// How many drafts a sequence proposes: as many as are expected to give the most tokens a second.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engine/step_times.h"

namespace cachalot::engine {

// What has come of drafts so far. A sequence starts with that of others.
class DraftHistory {
 public:
  // How likely one stands after those before it have; by its place, deeper ones like the last.
  double of(int64_t place) const { return values_[index(place)]; }
  // Moves that one by `weight` of the way to `value`.
  void learn(int64_t place, double value, double weight) {
    double& known = values_[index(place)];
    known += weight * (value - known);
  }
  // An answer has ended, that proposed up to `most` drafts a step.
  void learn_from(const DraftHistory& ended, int64_t most);

  int64_t idle_steps = 0;  // since drafts were last tried, where none pay
  int64_t pause = 256;     // steps to the next try

 private:
  static constexpr int64_t kPlaces = 8;
  static size_t index(int64_t place) {
    return static_cast<size_t>(place < kPlaces ? place : kPlaces - 1);
  }
  std::array<double, kPlaces> values_{0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7};
};

class DraftPolicy {
 public:
  // adapts = false: always `most`. start: what other sequences have met.
  DraftPolicy(int64_t most, bool adapts, const DraftHistory& start)
      : most_(most), adapts_(adapts), history_(start) {}

  int64_t most() const { return most_; }
  const DraftHistory& history() const { return history_; }
  // A step ran with `drafted` proposals, of which the first `accepted` stood.
  void record(int64_t drafted, int64_t accepted);
  // For its next step, beside `num_sequences` - 1 others that do the same. What both ways take is
  // measured first: steps without drafts, then with one. Where none pays, a few steps try one again
  // after a while.
  int64_t wanted(const CostModel& cost, int64_t num_sequences);

 private:
  int64_t best(const CostModel& cost, int64_t num_sequences) const;

  int64_t most_;
  bool adapts_;
  DraftHistory history_;
  int64_t first_tries_ = 4;
  int64_t tries_left_ = 0;
};

}  // namespace cachalot::engine
