// A group that a trainer offers to a worker.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace cachalot::rollout {

struct Offer {
  int64_t lease = 0;
  int64_t step = 0;
  int64_t group = 0;
  uint64_t plan_hash = 0;  // post/rollout_plan.h
  int64_t weights_version = 0;
  std::string manifest_sha256;  // of the weights' manifest.json (formats/manifest.h)
  std::string precision;        // train/training_precision.h
  bool qat = false;
  bool asks_turns = false;  // an answer that ends may go on
};

std::string offer_json(const Offer& offer);
// Errors  invalid_argument, data_loss: what is no offer; key, expected, found.
Result<Offer> parse_offer(std::string_view text, std::string_view origin);

}  // namespace cachalot::rollout
