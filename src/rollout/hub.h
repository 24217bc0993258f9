// The trainer's side of rollouts by workers: listens, and hands a step's groups to whoever asks.
//   POST   /rollout/claim?worker=NAME          an offer (offer.h); 204: none now; 410: no more ever
//   GET    /rollout/plans/STEP                 post/rollout_plan.h's words, i64 each
//   GET    /rollout/weights/VERSION/FILE       of a checkpoint's directory (train/checkpoint.h)
//   GET    /rollout/leases/ID/frames           what the log has of its group (frame_batch.h)
//   POST   /rollout/frames?drafted=N&accepted=N   what has been sampled (frame_batch.h)
//   POST   /rollout/leases/ID/turns/ANSWER     i32 tokens to go on after
//   DELETE /rollout/leases/ID                  given back
// Refused are answered with their status and {"error": message}: 400 what cannot be, 401 without a
// key where there are keys, 403 from a web page, 404 what is not there, 500 a disk that fails.
// Files   DIRECTORY/checkpoints: the weights of the version at hand, without moments.
// Threads Calls come from the trainer's; a thread of its own answers the workers.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "post/answer_sampler.h"
#include "rollout/lease_desk.h"
#include "server/api_keys.h"

namespace cachalot::rollout {

struct HubOptions {
  std::string directory;  // of weights
  std::string host = "127.0.0.1";
  uint16_t port = 0;          // 0: any that is free
  server::ApiKeys keys = {};  // none: everyone may ask
  double lease_seconds = 60;  // without a token, before another may have the group
};

class Hub : public post::AnswerSampler {
 public:
  // Errors  listen_on()'s.
  static Result<std::unique_ptr<Hub>> listen(HubOptions options);
  // After finish(): tells workers that ask within two seconds that there is no more, and listens
  // for a second in all, for those that wait for a trainer that was there before.
  ~Hub() override;
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  uint16_t port() const;
  bool is_local() const;  // only this machine can reach it

  Status set_weights(const post::SamplerWeights& weights) override;
  Result<bool> sample(const post::RolloutPlan& plan, post::RolloutLog& log,
                      const post::OnTurn& on_turn,
                      const std::function<bool()>& wants_pause) override;
  const post::RolloutCounts& counts() const override { return counts_; }
  // The run is over: no more groups will come.
  void finish() { desk_.close(); }

 private:
  class Listener;
  explicit Hub(HubOptions options);

  HubOptions options_;
  LeaseDesk desk_;
  Offer weights_;  // their fields
  post::RolloutCounts counts_;
  const std::chrono::steady_clock::time_point listened_ = std::chrono::steady_clock::now();
  std::unique_ptr<Listener> listener_;
  std::jthread thread_;
};

}  // namespace cachalot::rollout
