// A worker's calls to its trainer (hub.h).
// Errors  io_error where the trainer does not answer; what it refuses has its message and, by its
//         status, the code not_found (a lease or weights that are gone), cancelled (the run is
//         over) or invalid_argument; data_loss for an answer that is none.
// Threads one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "post/rollout_plan.h"
#include "rollout/http_client.h"
#include "rollout/offer.h"

namespace cachalot::rollout {

class TrainerClient {
 public:
  TrainerClient(std::string host, uint16_t port, std::string key)
      : http_(std::move(host), port, std::move(key)) {}

  const std::string& name() const { return http_.name(); }
  // The last call's error was that the trainer did not answer, or that it could not.
  bool is_away() const { return is_away_; }
  // Nothing: no group is free.
  Result<std::optional<Offer>> claim(std::string_view worker);
  // Of the offer's hash.
  Result<post::RolloutPlan> plan(const Offer& offer);
  // A batch of frames (frame_batch.h).
  Result<std::string> logged(int64_t lease);
  Status send(std::string_view batch, int64_t drafted, int64_t accepted);
  Result<std::vector<int32_t>> turn(int64_t lease, int64_t answer);
  Status give_back(int64_t lease);
  // The files of the offer's weights into the directory, each to the digest that their manifest
  // says, and that to the offer's.
  Status fetch_weights(const Offer& offer, const std::string& directory);

 private:
  Result<std::string> ask(std::string_view method, const std::string& target,
                          std::string_view body = {});
  Status fetch_file(const Offer& offer, const std::string& directory, const std::string& file,
                    const std::string& sha256);

  HttpClient http_;
  bool is_away_ = false;
};

}  // namespace cachalot::rollout
