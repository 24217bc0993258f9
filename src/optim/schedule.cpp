#include "optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace cachalot::optim {
namespace {

constexpr int64_t kMaxRampSizes = int64_t{1} << 22;  // steps of different sizes, which a plan walks

template <typename T>
Status expected(std::string_view key, std::string_view what, const T& found) {
  return invalid_argument(fmt::format("{}: expected {}, found {}", key, what, found));
}

Status validate_learning_rate(const LearningRateSchedule& s) {
  if (!(s.peak >= 0) || !std::isfinite(s.peak))
    return expected("learning_rate.peak", "a number from 0 on", s.peak);
  if (s.warmup_steps < 0)
    return expected("learning_rate.warmup_steps", "0 or more steps", s.warmup_steps);
  if (s.decay_begin_tokens < 0)
    return expected("learning_rate.decay_begin_tokens", "0 or more tokens", s.decay_begin_tokens);
  if (s.decay_end_tokens < s.decay_begin_tokens) {
    return expected("learning_rate.decay_end_tokens",
                    fmt::format("at least decay_begin_tokens = {}", s.decay_begin_tokens),
                    s.decay_end_tokens);
  }
  if (!(s.floor_fraction >= 0 && s.floor_fraction <= 1))
    return expected("learning_rate.floor_fraction", "0 to 1", s.floor_fraction);
  return {};
}

Status validate_weights(const MtpWeightSchedule& s) {
  if (!(s.before_decay >= 0) || !std::isfinite(s.before_decay))
    return expected("mtp.before_decay", "a number from 0 on", s.before_decay);
  if (!(s.from_decay >= 0) || !std::isfinite(s.from_decay))
    return expected("mtp.from_decay", "a number from 0 on", s.from_decay);
  return {};
}

Status validate_sequence(const std::vector<SequenceStage>& stages) {
  if (stages.empty()) return expected("sequence", "at least one stage", "none");
  for (size_t i = 0; i < stages.size(); ++i) {
    const std::string key = fmt::format("sequence.{}", i);
    if (i == 0 && stages[i].from_tokens != 0)
      return expected(key + ".from_tokens", "0 in the first stage", stages[i].from_tokens);
    if (i > 0 && stages[i].from_tokens <= stages[i - 1].from_tokens) {
      return expected(key + ".from_tokens",
                      fmt::format("more than the stage before, {}", stages[i - 1].from_tokens),
                      stages[i].from_tokens);
    }
    if (stages[i].sequence_length <= 0)
      return expected(key + ".sequence_length", "1 or more tokens", stages[i].sequence_length);
  }
  return {};
}

Status validate_batch(const BatchSchedule& s, const std::vector<SequenceStage>& stages) {
  if (s.first_batch_tokens <= 0)
    return expected("batch.first_batch_tokens", "1 or more tokens", s.first_batch_tokens);
  if (s.batch_tokens < s.first_batch_tokens) {
    return expected("batch.batch_tokens",
                    fmt::format("at least first_batch_tokens = {}", s.first_batch_tokens),
                    s.batch_tokens);
  }
  for (const SequenceStage& stage : stages) {
    if (s.batch_tokens % stage.sequence_length != 0) {
      return expected("batch.batch_tokens",
                      fmt::format("whole sequences of {} tokens", stage.sequence_length),
                      s.batch_tokens);
    }
    if (const int64_t sizes = (s.batch_tokens - s.first_batch_tokens) / stage.sequence_length;
        s.ramp_tokens > 0 && sizes > kMaxRampSizes) {
      return expected("batch.ramp_tokens",
                      fmt::format("0, or a ramp over at most {} sequences of {} tokens",
                                  kMaxRampSizes, stage.sequence_length),
                      fmt::format("one over {}", sizes));
    }
  }
  if (s.ramp_tokens < 0) return expected("batch.ramp_tokens", "0 or more tokens", s.ramp_tokens);
  if (s.total_tokens < 0) return expected("batch.total_tokens", "0 or more tokens", s.total_tokens);
  return {};
}

Status validate_attention(const AttentionSchedule& s) {
  if (s.dense_tokens < 0)
    return expected("attention.dense_tokens", "0 or more tokens", s.dense_tokens);
  if (s.indexer_warmup_tokens < 0) {
    return expected("attention.indexer_warmup_tokens", "0 or more tokens", s.indexer_warmup_tokens);
  }
  if (!(s.indexer_warmup_learning_rate >= 0) || !std::isfinite(s.indexer_warmup_learning_rate)) {
    return expected("attention.indexer_warmup_learning_rate", "a number from 0 on",
                    s.indexer_warmup_learning_rate);
  }
  return {};
}

}  // namespace

LearningRateSchedule learning_rate_for_budget(double peak, int64_t total_tokens) {
  CACHALOT_CHECK(total_tokens >= 0);
  // In this order no product overflows, and a budget of whole hundreds gives exact marks.
  const auto percent = [&](int64_t p) {
    return total_tokens / 100 * p + total_tokens % 100 * p / 100;
  };
  return {.peak = peak, .decay_begin_tokens = percent(68), .decay_end_tokens = percent(97)};
}

double learning_rate(const LearningRateSchedule& s, int64_t step, int64_t tokens_seen) {
  double rate = s.peak;
  if (step < s.warmup_steps)
    rate *= static_cast<double>(step) / static_cast<double>(s.warmup_steps);
  if (tokens_seen < s.decay_begin_tokens) return rate;
  double cosine = -1;
  if (tokens_seen < s.decay_end_tokens) {
    cosine = std::cos(std::numbers::pi * static_cast<double>(tokens_seen - s.decay_begin_tokens) /
                      static_cast<double>(s.decay_end_tokens - s.decay_begin_tokens));
  }
  return rate * (s.floor_fraction + (1 - s.floor_fraction) * (1 + cosine) / 2);
}

double mtp_loss_weight(const MtpWeightSchedule& s, const LearningRateSchedule& lr,
                       int64_t tokens_seen) {
  return tokens_seen < lr.decay_begin_tokens ? s.before_decay : s.from_decay;
}

int64_t sequence_length(const std::vector<SequenceStage>& stages, int64_t tokens_seen) {
  CACHALOT_CHECK(!stages.empty());
  int64_t length = stages[0].sequence_length;
  for (const SequenceStage& stage : stages) {
    if (stage.from_tokens <= tokens_seen) length = stage.sequence_length;
  }
  return length;
}

int64_t step_tokens(const BatchSchedule& s, int64_t sequence_length, int64_t tokens_seen) {
  CACHALOT_CHECK(sequence_length > 0 && tokens_seen >= 0);
  int64_t tokens = s.batch_tokens;
  if (tokens_seen < s.ramp_tokens) {
    // In double: the product of two token counts passes 2^63. Rounding down to sequences hides the
    // last places, and the same two numbers give the same result everywhere.
    const double done = static_cast<double>(tokens_seen) / static_cast<double>(s.ramp_tokens);
    tokens =
        s.first_batch_tokens +
        static_cast<int64_t>(done * static_cast<double>(s.batch_tokens - s.first_batch_tokens));
  }
  tokens = std::max(sequence_length, tokens / sequence_length * sequence_length);
  return std::min(tokens, std::max<int64_t>(0, s.total_tokens - tokens_seen));
}

std::string_view attention_stage_name(AttentionStage stage) {
  switch (stage) {
    case AttentionStage::dense: return "dense";
    case AttentionStage::indexer_warmup: return "indexer_warmup";
    case AttentionStage::sparse: return "sparse";
  }
  return "?";
}

AttentionStage attention_stage(const AttentionSchedule& s, int64_t tokens_seen) {
  if (tokens_seen < s.dense_tokens) return AttentionStage::dense;
  // Not dense_tokens + indexer_warmup_tokens, which may overflow where a run never gets sparse.
  return tokens_seen - s.dense_tokens < s.indexer_warmup_tokens ? AttentionStage::indexer_warmup
                                                                : AttentionStage::sparse;
}

Status validate(const TrainingSchedule& s) {
  CACHALOT_RETURN_IF_ERROR(validate_learning_rate(s.learning_rate));
  CACHALOT_RETURN_IF_ERROR(validate_weights(s.mtp));
  CACHALOT_RETURN_IF_ERROR(validate_sequence(s.sequence));
  CACHALOT_RETURN_IF_ERROR(validate_batch(s.batch, s.sequence));
  return validate_attention(s.attention);
}

TrainingPoint training_point(const TrainingSchedule& s, int64_t step, int64_t tokens_seen) {
  const int64_t length = sequence_length(s.sequence, tokens_seen);
  const AttentionStage attention = attention_stage(s.attention, tokens_seen);
  return {.learning_rate = attention == AttentionStage::indexer_warmup
                               ? s.attention.indexer_warmup_learning_rate
                               : learning_rate(s.learning_rate, step, tokens_seen),
          .mtp_loss_weight = mtp_loss_weight(s.mtp, s.learning_rate, tokens_seen),
          .sequence_length = length,
          .step_tokens = step_tokens(s.batch, length, tokens_seen),
          .attention = attention};
}

}  // namespace cachalot::optim
