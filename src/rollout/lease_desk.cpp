#include "rollout/lease_desk.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/log.h"

namespace cachalot::rollout {

void LeaseDesk::begin(const post::RolloutPlan& plan, post::RolloutLog& log, post::OnTurn on_turn,
                      const Offer& weights) {
  const std::scoped_lock lock(mutex_);
  step_ = Step{&plan, &log, std::move(on_turn), weights, std::vector<int64_t>(plan.groups.size()),
               {},    {}};
  if (last_lease_ == 0) {
    // Leases of a trainer that was here before are none of ours.
    last_lease_ = std::chrono::duration_cast<std::chrono::microseconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count();
  }
}

bool LeaseDesk::wait(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [&] { return !step_->error.ok() || are_all_done(); });
}

Status LeaseDesk::end() {
  const std::scoped_lock lock(mutex_);
  leases_.clear();
  Status error = step_->error;
  step_.reset();
  return error;
}

void LeaseDesk::close() {
  const std::scoped_lock lock(mutex_);
  is_closed_ = true;
}

bool LeaseDesk::is_closed() const {
  const std::scoped_lock lock(mutex_);
  return is_closed_;
}

post::RolloutCounts LeaseDesk::counts() const {
  const std::scoped_lock lock(mutex_);
  return step_ ? step_->counts : post::RolloutCounts();
}

size_t LeaseDesk::num_untold() const {
  const std::scoped_lock lock(mutex_);
  return workers_.size();
}

bool LeaseDesk::is_done(int64_t group) const {
  const int64_t size = step_->plan->group_size;
  const auto answers = std::span(step_->log->answers())
                           .subspan(static_cast<size_t>(group * size), static_cast<size_t>(size));
  return std::ranges::all_of(
      answers, [](const post::RolloutAnswer& a) { return a.end != post::AnswerEnd::open; });
}

bool LeaseDesk::are_all_done() const {
  for (size_t group = 0; group < step_->plan->groups.size(); ++group) {
    if (!is_done(static_cast<int64_t>(group))) return false;
  }
  return true;
}

std::optional<int64_t> LeaseDesk::take_away(Clock::time_point now) {
  auto longest = leases_.end();
  double most = 0;
  for (auto it = leases_.begin(); it != leases_.end(); ++it) {
    const Lease& lease = it->second;
    const double silent = std::chrono::duration<double>(now - lease.heard).count();
    const double allowed =
        lease_seconds_ * std::exp2(static_cast<double>(step_->num_lost[lease.group]));
    if (silent <= allowed || silent - allowed < most) continue;
    most = silent - allowed;
    longest = it;
  }
  if (longest == leases_.end()) return std::nullopt;
  const int64_t group = longest->second.group;
  log_warning(fmt::format("worker {}: no token of step {}, group {} for {:.1f} s; another goes on",
                          longest->second.worker, step_->plan->step, group,
                          std::chrono::duration<double>(now - longest->second.heard).count()));
  ++step_->num_lost[group];
  ++step_->counts.taken_over;
  leases_.erase(longest);
  return group;
}

Result<std::optional<Offer>> LeaseDesk::claim(const std::string& worker, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  if (is_closed_) {
    workers_.erase(worker);
    return cancelled("the run is over");
  }
  workers_.insert(worker);
  if (!step_) return std::optional<Offer>();
  std::optional<int64_t> group;
  for (size_t g = 0; g < step_->plan->groups.size() && !group; ++g) {
    const auto number = static_cast<int64_t>(g);
    const bool is_leased = std::ranges::any_of(
        leases_, [&](const auto& entry) { return entry.second.group == number; });
    if (!is_leased && !is_done(number)) group = number;
  }
  if (!group) group = take_away(now);
  if (!group) return std::optional<Offer>();
  leases_[++last_lease_] = {*group, worker, 0, now};
  Offer offer = step_->weights;
  offer.lease = last_lease_;
  offer.step = step_->plan->step;
  offer.group = *group;
  offer.plan_hash = post::plan_hash(*step_->plan);
  offer.weights_version = step_->plan->weights_version;
  offer.asks_turns = static_cast<bool>(step_->on_turn);
  return std::optional(std::move(offer));
}

Result<std::vector<int64_t>> LeaseDesk::plan_words(int64_t step) const {
  const std::scoped_lock lock(mutex_);
  if (step_ && step_->plan->step == step) return post::plan_words(*step_->plan);
  return not_found(fmt::format("step {}: expected {}, found another", step,
                               step_ ? fmt::format("{}", step_->plan->step) : "none to sample"));
}

Result<LeaseDesk::Lease*> LeaseDesk::find(int64_t lease, Clock::time_point now) {
  const auto found = leases_.find(lease);
  if (!step_ || found == leases_.end()) {
    return not_found(fmt::format(
        "lease {}: expected one that stands, found none: its group is another worker's by now, or "
        "the trainer has started anew",
        lease));
  }
  found->second.heard = now;
  return &found->second;
}

Result<std::string> LeaseDesk::logged(int64_t lease, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  CACHALOT_ASSIGN_OR_RETURN(const Lease* found, find(lease, now));
  std::string batch;
  int64_t place = 0;
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::vector<std::byte>> frames,
                            step_->log->frames_of(found->group));
  for (const std::vector<std::byte>& frame : frames) put_frame(batch, lease, place++, frame);
  return batch;
}

Status LeaseDesk::take_frame(const SentFrame& frame, Clock::time_point now) {
  CACHALOT_ASSIGN_OR_RETURN(Lease * lease, find(frame.lease, now));
  if (frame.place < lease->num_frames) return {};
  if (frame.place > lease->num_frames) {
    return data_loss(fmt::format("lease {}: expected its frame {}, found frame {}", frame.lease,
                                 lease->num_frames, frame.place));
  }
  CACHALOT_ASSIGN_OR_RETURN(const post::RolloutLog::Place place,
                            step_->log->place_of(frame.payload));
  if (place.group != lease->group) {
    return invalid_argument(fmt::format("lease {}: expected a frame of group {}, found one of {}",
                                        frame.lease, lease->group, place.group));
  }
  const auto rows = static_cast<int64_t>(step_->plan->groups[place.group].prompt.size()) - 1;
  if (place.prompt_rows && *place.prompt_rows != rows) {
    return invalid_argument(fmt::format("lease {}: expected experts of {} rows, found {}",
                                        frame.lease, rows, *place.prompt_rows));
  }
  const Status status = step_->log->add(frame.payload);
  if (status.code() == StatusCode::io_error || status.code() == StatusCode::resource_exhausted)
    step_->error = status;
  CACHALOT_RETURN_IF_ERROR(status);
  ++lease->num_frames;
  if (place.is_sampled_token) ++step_->counts.sampled_tokens;
  return {};
}

Status LeaseDesk::take(const Sent& sent, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  Status status;
  for (const SentFrame& frame : sent.frames) {
    status = take_frame(frame, now);
    if (!status.ok()) break;
  }
  if (step_) {
    step_->counts.drafted += sent.drafted;
    step_->counts.accepted += sent.accepted;
    std::erase_if(leases_, [&](const auto& entry) { return is_done(entry.second.group); });
    if (!step_->error.ok() || are_all_done()) changed_.notify_all();
  }
  return status;
}

Result<std::vector<int32_t>> LeaseDesk::turn(int64_t lease, int64_t answer, Clock::time_point now) {
  const std::scoped_lock lock(mutex_);
  CACHALOT_ASSIGN_OR_RETURN(const Lease* found, find(lease, now));
  const int64_t size = step_->plan->group_size;
  if (answer < found->group * size || answer >= (found->group + 1) * size || !step_->on_turn) {
    return invalid_argument(fmt::format("lease {}: expected an answer of group {}, found {}", lease,
                                        found->group, answer));
  }
  const post::RolloutAnswer& so_far = step_->log->answers()[answer];
  if (so_far.ids.empty() || so_far.end != post::AnswerEnd::open) {
    return invalid_argument(fmt::format("answer {}: expected one under way, found one that has {}",
                                        answer, so_far.ids.empty() ? "not begun" : "ended"));
  }
  Result<std::vector<int32_t>> tokens = step_->on_turn(answer, so_far);
  if (!tokens) {
    step_->error = tokens.error();
    changed_.notify_all();
  }
  return tokens;
}

void LeaseDesk::give_back(int64_t lease) {
  const std::scoped_lock lock(mutex_);
  leases_.erase(lease);
}

}  // namespace cachalot::rollout
