// What a training run does when: learning rate, MTP weight, batch size, sequence length and
// attention stage, each a pure function of the tokens seen so far (and, in the warm-up, of the
// steps done). Nothing is remembered, so a resumed run needs no state.
// Source  reference/training 6.2-6.4.
// Errors  validate() names the key, what was expected and what was found; the functions take
//         validated schedules.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::optim {

// Linear from 0 over warmup_steps; constant; half a cosine from decay_begin_tokens to
// floor_fraction of the peak at decay_end_tokens; the floor from there on.
struct LearningRateSchedule {
  double peak = 2.7e-4;
  int64_t warmup_steps = 2000;
  int64_t decay_begin_tokens = std::numeric_limits<int64_t>::max();
  int64_t decay_end_tokens = std::numeric_limits<int64_t>::max();
  double floor_fraction = 0.1;
};
// The suggested course over a budget: constant to 68 % of the tokens, cosine to 97 %.
LearningRateSchedule learning_rate_for_budget(double peak, int64_t total_tokens);
double learning_rate(const LearningRateSchedule& s, int64_t step, int64_t tokens_seen);

// lambda of the MTP loss: it changes at the moment learning-rate decay starts.
struct MtpWeightSchedule {
  double before_decay = 0.3;
  double from_decay = 0.1;
};
double mtp_loss_weight(const MtpWeightSchedule& s, const LearningRateSchedule& lr,
                       int64_t tokens_seen);

// Stages begin at from_tokens, the first at 0.
struct SequenceStage {
  int64_t from_tokens = 0;
  int64_t sequence_length = 4096;
};
int64_t sequence_length(const std::vector<SequenceStage>& stages, int64_t tokens_seen);

// Tokens per step: linear in tokens_seen from first_batch_tokens to batch_tokens over ramp_tokens,
// down to whole sequences (at least one). The last step takes what the budget leaves, to the token.
struct BatchSchedule {
  int64_t first_batch_tokens = 3072 * 4096LL;  // V3's; V4 says "a small size"
  int64_t batch_tokens = 18'432 * 4096LL;
  int64_t ramp_tokens = 0;
  int64_t total_tokens = 0;
};
int64_t step_tokens(const BatchSchedule& s, int64_t sequence_length, int64_t tokens_seen);

// CSA attends every visible entry (dense), then trains the indexer alone on dense attention, then
// selects (sparse).
enum class AttentionStage { dense, indexer_warmup, sparse };
std::string_view attention_stage_name(AttentionStage stage);
struct AttentionSchedule {
  int64_t dense_tokens = 0;  // the indexer's warm-up begins here
  int64_t indexer_warmup_tokens = 0;
  double indexer_warmup_learning_rate = 1e-3;
};
AttentionStage attention_stage(const AttentionSchedule& s, int64_t tokens_seen);

struct TrainingSchedule {
  LearningRateSchedule learning_rate;
  MtpWeightSchedule mtp;
  std::vector<SequenceStage> sequence = {SequenceStage{}};
  BatchSchedule batch;
  AttentionSchedule attention;
};
// Messages as "batch.ramp_tokens: expected ..., found ...".
Status validate(const TrainingSchedule& s);

// All of it at one step.
struct TrainingPoint {
  double learning_rate;  // of the indexer in its warm-up
  double mtp_loss_weight;
  int64_t sequence_length;
  int64_t step_tokens;  // 0: the budget is spent
  AttentionStage attention;
};
TrainingPoint training_point(const TrainingSchedule& s, int64_t step, int64_t tokens_seen);

}  // namespace cachalot::optim
