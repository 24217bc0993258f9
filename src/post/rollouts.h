// Samples a plan's answers with an engine, token by token into the log.
// Source  reference/post-training 2.2, 9.3 (preemptible and fault-tolerant rollouts).
// Groups  A group's prompt runs once; its answers fork it and share its blocks. Not for training,
//         what prompts begin with alike (tools) runs once for all.
// Resume  Answers that the log has begun go on from there: from their rows where pause() has saved
//         them, else by one prefill of prompt and logged tokens. Either way their bits are those of
//         an undisturbed run.
// Turns   on_turn, if given, is asked when an answer ends with an end token: tokens to go on after
//         (a tool's results), or none.
// Errors  the log's and the engine's; what is in the log stays valid, and a later run goes on.
// Threads one owner, who also owns engine and log; nobody else steps the engine meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "post/rollout_log.h"
#include "post/rollout_plan.h"

namespace cachalot::post {

// The head of the log that holds this plan's answers, of this model; with experts or without.
RolloutLogHead log_head(const RolloutPlan& plan, const formats::ModelConfig& config,
                        bool for_training = true);
// Layers whose experts a log keeps: those that route by score, without the MTP block's.
std::vector<int64_t> routed_layers(const formats::ModelConfig& config);

// Tokens to go on after, or none, of an answer that has ended with an end token.
using OnTurn =
    std::function<Result<std::vector<int32_t>>(int64_t answer, const RolloutAnswer& so_far)>;

using MakeMask = std::function<std::unique_ptr<engine::TokenMask>()>;

struct RolloutOptions {
  // Sequences that are open at once, prompts with them: at most the engine's max_sequences.
  int64_t max_sequences = 8;
  // Log-probabilities, sets and experts, which training needs. Without them any sampling and any
  // device will do; the log is then of log_head(plan, config, false).
  bool for_training = true;
  // Where pause() saves rows, and whence they come back. Empty: nowhere.
  std::string rows_directory = {};
  OnTurn on_turn = {};
  // Which tokens may come, of an answer so far; empty: any.
  std::function<Result<MakeMask>(int64_t answer, const RolloutAnswer& so_far)> make_mask = {};
  // The group to begin, asked when there is room for it; none: no more. Empty: all, in order.
  std::function<Result<std::optional<int64_t>>()> next_group = {};
};

struct RolloutCounts {
  int64_t sampled_tokens = 0;    // by this run
  int64_t prefilled_tokens = 0;  // rows of prompts and of logged tokens that ran
  int64_t resumed_with_rows = 0;
  int64_t resumed_from_log = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  int64_t taken_over = 0;  // groups that one worker went on with in another's place
};

class Rollouts {
 public:
  // Borrows all. The engine's weights are the plan's version (CHECK).
  Rollouts(engine::Engine& engine, const RolloutPlan& plan, RolloutLog& log,
           RolloutOptions options);
  // Closes what is open.
  ~Rollouts();
  Rollouts(const Rollouts&) = delete;
  Rollouts& operator=(const Rollouts&) = delete;

  // Until all answers of the groups that were begun have ended, or wants_pause() says true between
  // two steps. False: paused.
  Result<bool> run(const std::function<bool()>& wants_pause = {});
  // Ends what is under way, and saves its rows (rows_directory). After a run that was paused.
  Status pause();

  const RolloutCounts& counts() const { return counts_; }

 private:
  struct Running {
    engine::SequenceId sequence;
    engine::RequestId request;
    bool is_over = false;  // the engine has said its last
  };
  const RolloutAnswer& answer(int64_t number) const { return log_.answers()[number]; }
  bool is_done(int64_t number) const { return answer(number).end != AnswerEnd::open; }
  std::vector<int32_t> tokens_of(int64_t number) const;  // prompt and what the log has
  std::string rows_path(int64_t number) const;
  Result<std::optional<int64_t>> next_group(int64_t num_begun) const;
  // False: paused.
  Result<bool> run_group(int64_t group);
  Result<bool> make_room(int64_t num_sequences);
  // A sequence that holds a beginning of the group's prompt, or nothing.
  Result<engine::SequenceId> open_prompt(int64_t group);
  Status run_prompt(int64_t group, engine::SequenceId sequence);
  Status start_from_log(int64_t number);
  // Goes on in a sequence that holds the beginning of the answer's tokens.
  Status start(int64_t number, engine::SequenceId sequence);
  // What the last token means: an end, a turn's end, or that there is more to sample.
  Status settle(int64_t number, bool* samples_on);
  bool take(int64_t number, const engine::Event& event);
  Status take_token(int64_t number, const engine::Event& event, bool* samples_on);
  // One step of the engine, then see_to_ended().
  Status step();
  // Closes the sequences of answers that have ended, and begins next turns.
  Status see_to_ended();
  void cancel_all();

  engine::Engine& engine_;
  const RolloutPlan& plan_;
  RolloutLog& log_;
  RolloutOptions options_;
  std::vector<int64_t> layers_;
  std::function<bool()> wants_pause_;
  std::map<int64_t, Running> running_;  // by answer
  // What the last prompts began with, and that prompt.
  std::optional<engine::SequenceId> stem_;
  std::span<const int32_t> last_prompt_;
  Status error_;  // the first error of any answer
  RolloutCounts counts_;
};

}  // namespace cachalot::post
