// How many drafts a sequence proposes: as many as are expected to give the most tokens a second.
#pragma once

#include <cstdint>

#include "engine/step_times.h"

namespace cachalot::engine {

class DraftPolicy {
 public:
  // adapts = false: always `most`.
  DraftPolicy(int64_t most, bool adapts) : most_(most), adapts_(adapts) {}

  int64_t most() const { return most_; }
  // A step ran with `drafted` proposals, of which the first `accepted` stood.
  void record(int64_t drafted, int64_t accepted);
  // For its next step, beside `num_sequences` - 1 others that do the same. Where none pays, a few
  // steps try one draft again after a while.
  int64_t wanted(const CostModel& cost, int64_t num_sequences);

 private:
  int64_t best(const CostModel& cost, int64_t num_sequences) const;

  int64_t most_;
  bool adapts_;
  double acceptance_ = 0.7;  // of a draft after accepted ones, decayed
  int64_t idle_steps_ = 0;
  int64_t pause_ = 32;
  int64_t tries_left_ = 0;
};

}  // namespace cachalot::engine
