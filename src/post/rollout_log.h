// The write-ahead log of one step's rollouts: every token as it is sampled, with all that training
// and resuming need. Answers are what the log says: appending is how they grow. It is a file, or a
// mirror of one elsewhere, whose frames go there instead (a worker's, to its trainer).
// Source  reference/post-training 9.3; infrastructure 5.4 (sampler randomness keyed by position).
// Layout  docs/formats/rollout_log.md.
// Answers are numbered group * group_size + place in the group.
// Choices Per row, experts of the layers that route by score, layer by layer, num_experts_per_tok
//         each. Rows of a group's prompt but the last are its own; an answer's rows begin with the
//         prompt's last one, whose logits gave its first token. The last token of an answer has no
//         row: training does not run it.
// Errors  the file's (frame_log.h); invalid_argument: a log of another plan (expected, found);
//         data_loss: a whole frame that says what cannot be.
// Memory  What is light (ids, log-probabilities, rewards, lengths) is there as long as the log;
//         sets and experts are read for an answer and go with what was read
//         (reference/post-training 9.4): of all readers of a machine the file's pages are the one
// copy. Threads one owner.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "post/frame_log.h"

namespace cachalot::post {

// What a log is of. Logs of equal heads hold the same rollouts.
struct RolloutLogHead {
  int64_t step = 0;
  int64_t weights_version = 0;
  uint64_t plan_hash = 0;  // of prompts and sampling
  int64_t num_groups = 0;
  int64_t group_size = 0;
  int64_t vocab_size = 0;
  int64_t choices_per_row = 0;  // experts
  int64_t num_experts = 0;
  bool operator==(const RolloutLogHead&) const = default;
};

enum class AnswerEnd : int32_t { open, stop, length };
std::string_view answer_end_name(AnswerEnd end);

struct Reward {
  double value = 0;
  bool correct = false;
  std::string why;  // of a reward that is none: what went wrong; else empty or a note
};

struct RolloutToken {
  int32_t id = 0;
  double logprob = 0;                 // after truncation, as ops/loss/label_logprob.h computes it
  std::vector<int32_t> allowed = {};  // ascending; empty: any token could come
  std::vector<uint16_t> experts =
      {};  // of the answer's rows since the token before, this one's last
};

// What is light of an answer, and stays in memory.
struct RolloutAnswer {
  std::vector<int32_t> ids;
  // One per id. Of an id that was given and not sampled (a tool's result): no logprob.
  std::vector<bool> is_sampled;
  std::vector<double> logprobs;
  int64_t num_rows = 0;  // whose experts are there
  AnswerEnd end = AnswerEnd::open;
  std::optional<Reward> reward;
  int64_t num_sampled() const;
};

// What is heavy: in the file alone, and read for whoever is at it.
struct HeavyFields {
  std::vector<std::vector<int32_t>> allowed;  // one per id: RolloutToken::allowed
  std::vector<uint16_t> prompt_experts;       // of the group's prompt
  std::vector<uint16_t> experts;
};

class RolloutLog {
 public:
  // Made where it is missing; else it goes on where the last whole frame ends.
  static Result<RolloutLog> open(const std::string& path, const RolloutLogHead& head);
  // Every frame but those of add() goes to `send`, whose error is the append's.
  using Send = std::function<Status(std::span<const std::byte> payload)>;
  static RolloutLog mirror(const RolloutLogHead& head, Send send);

  const RolloutLogHead& head() const { return head_; }
  const std::vector<RolloutAnswer>& answers() const { return answers_; }
  // Whether the group's prompt has its experts.
  bool has_prompt(int64_t group) const { return prompt_frames_[group] >= 0; }
  // Errors: the file's. Not of a mirror (CHECK).
  Result<HeavyFields> heavy(int64_t answer) const;
  int64_t recovered_tokens() const { return recovered_tokens_; }
  int64_t dropped_bytes() const { return log_->dropped_bytes(); }
  // FrameLog's. Not of a mirror.
  int64_t appended_bytes() const { return log_->appended_bytes(); }
  double append_seconds() const { return log_->append_seconds(); }
  // Frames of which the group's prompt and answers come, rewards apart. Errors: the file's. Not of
  // a mirror (CHECK).
  Result<std::vector<std::vector<std::byte>>> frames_of(int64_t group) const;
  // A frame from outside. Errors: data_loss where it cannot follow; nothing has changed then.
  Status add(std::span<const std::byte> payload);
  // What a frame is of. Errors: data_loss for what is no frame of answers or prompts.
  struct Place {
    int64_t group = 0;
    std::optional<int64_t> prompt_rows = {};  // of a prompt's frame
    bool is_sampled_token = false;
  };
  Result<Place> place_of(std::span<const std::byte> payload) const;

  Status add_prompt(int64_t group, std::vector<uint16_t> experts);
  Status add_token(int64_t answer, RolloutToken token);
  Status add_given(int64_t answer, std::span<const int32_t> ids);
  Status finish(int64_t answer, AnswerEnd end);
  Status add_reward(int64_t answer, const Reward& reward);
  Status sync() { return log_ ? log_->sync() : Status(); }

 private:
  struct Frame;
  explicit RolloutLog(const RolloutLogHead& head);
  std::string origin() const { return log_ ? log_->path() : "rollouts"; }
  // What a frame says, if it can follow.
  Result<Frame> parse(std::span<const std::byte> payload, const std::string& origin) const;
  // The only way in which answers change. offset: the frame's in the file; of a mirror 0.
  void apply(Frame frame, int64_t offset);
  Status append();

  RolloutLogHead head_;
  std::vector<RolloutAnswer> answers_;
  std::vector<int64_t> prompt_frames_;               // by group: offsets; -1: none
  std::vector<std::vector<int64_t>> answer_frames_;  // by answer: offsets, rewards apart
  bool has_head_ = false;
  int64_t recovered_tokens_ = 0;
  std::vector<std::byte> frame_;  // being written
  std::optional<FrameLog> log_;   // none: a mirror
  Send send_;
};

}  // namespace cachalot::post
