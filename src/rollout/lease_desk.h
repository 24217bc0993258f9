// Which worker samples which group of a step: hands groups out, takes their frames into the step's
// log, and gives a group to another where its worker is silent. What an answer becomes is the
// plan's alone: who has the lease shows in no bit.
// Source  reference/post-training 9.3.
// Lease   A group is a worker's until its answers have ended. One from which no frame has come for
//         lease_seconds is given to whoever asks when no group is free; each time that happens to a
//         group it gets twice as long. What comes late from the worker before is refused.
// Frames  are taken once: each says how many came before it under its lease, so that one that is
//         sent again is passed over.
// Errors  not_found: a lease that does not stand (given to another, given back, or of a trainer
//         before this one); data_loss, invalid_argument: frames that cannot be, of another group or
//         after ones that are missing: they are the worker's to hear. The log's own (a full disk)
//         ends the step: sample() of the hub returns it.
// Threads any; all under one lock.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "post/rollouts.h"
#include "rollout/frame_batch.h"
#include "rollout/offer.h"

namespace cachalot::rollout {

class LeaseDesk {
 public:
  using Clock = std::chrono::steady_clock;

  explicit LeaseDesk(double lease_seconds) : lease_seconds_(lease_seconds) {}

  // The trainer's side. Borrows until end(). `weights`: an offer's fields of them.
  void begin(const post::RolloutPlan& plan, post::RolloutLog& log, post::OnTurn on_turn,
             const Offer& weights);
  // Until all answers have ended, an error, or the time is over. True: it is over.
  bool wait(std::chrono::milliseconds time);
  // All leases fall. Errors: what has ended the step.
  Status end();
  // From now on whoever asks is told that there is no more.
  void close();
  bool is_closed() const;
  // Of this step. prefilled_tokens is not known.
  post::RolloutCounts counts() const;
  // Workers that have asked and were not yet told that there is no more.
  size_t num_untold() const;

  // The workers'. Nothing: no group is free; ask again. Errors: cancelled after close().
  Result<std::optional<Offer>> claim(const std::string& worker, Clock::time_point now);
  Result<std::vector<int64_t>> plan_words(int64_t step) const;
  // A batch of what the log has of the lease's group.
  Result<std::string> logged(int64_t lease, Clock::time_point now);
  struct Sent {
    std::vector<SentFrame> frames;
    int64_t drafted = 0, accepted = 0;  // since the batch before
  };
  Status take(const Sent& sent, Clock::time_point now);
  // Tokens to go on after, where the answer goes on.
  Result<std::vector<int32_t>> turn(int64_t lease, int64_t answer, Clock::time_point now);
  void give_back(int64_t lease);

 private:
  struct Lease {
    int64_t group = 0;
    std::string worker;
    int64_t num_frames = 0;  // taken
    Clock::time_point heard;
  };
  struct Step {
    const post::RolloutPlan* plan;
    post::RolloutLog* log;
    post::OnTurn on_turn;
    Offer weights;
    std::vector<int64_t> num_lost;  // by group
    post::RolloutCounts counts;
    Status error;
  };
  bool is_done(int64_t group) const;
  bool are_all_done() const;
  Result<Lease*> find(int64_t lease, Clock::time_point now);
  Status take_frame(const SentFrame& frame, Clock::time_point now);
  // The group of a lease that has been silent for too long, which falls.
  std::optional<int64_t> take_away(Clock::time_point now);

  const double lease_seconds_;
  mutable std::mutex mutex_;  // of those below
  std::condition_variable changed_;
  std::optional<Step> step_;
  std::map<int64_t, Lease> leases_;
  std::set<std::string> workers_;
  int64_t last_lease_ = 0;
  bool is_closed_ = false;
};

}  // namespace cachalot::rollout
