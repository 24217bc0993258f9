// A process that samples for a trainer elsewhere: `cachalot rollout`. It asks for groups, samples
// them with the weights that their plan names and sends every token back as it comes; what it does
// not send, because it or its connection dies, another samples again, to the same bits.
// Source  reference/post-training 9.3.
// Weights are fetched once for each version, against the digest of their manifest, and kept in the
//         worker's directory: one that starts again finds them.
// Waits   for a trainer that does not answer, patience_seconds at most from its last answer. A
//         lease that has gone to another costs the groups at hand, and a line in the log.
// Errors  io_error: no trainer for so long, a directory that cannot be written; data_loss: weights
//         or a plan that are not what their digests say; invalid_argument: a key that the trainer
//         does not know, a model that this build cannot load.
// Threads one; the engine's own beside it.
#pragma once

#include <functional>
#include <string>

#include "rollout/trainer_client.h"

namespace cachalot::rollout {

struct WorkerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;
  std::string key;        // empty: none
  std::string directory;  // of weights, this worker's alone
  std::string name;       // in the trainer's log
  int64_t max_sequences = 16;
  int threads = 0;  // 0: one per usable core
  double patience_seconds = 600;
};

struct WorkerSummary {
  int64_t groups = 0;  // begun
  int64_t sampled_tokens = 0;
  int64_t weights_fetched = 0;
  int64_t lost = 0;  // how often what was at hand had to be dropped
};

// Until the trainer's run is over, or wants_stop() says so.
Result<WorkerSummary> run_worker(const WorkerOptions& options,
                                 const std::function<bool()>& wants_stop);

}  // namespace cachalot::rollout
