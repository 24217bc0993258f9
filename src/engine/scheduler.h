// Which rows the next step runs. A pure function of what there is: no model, no clock, no memory of
// its own.
//
// Rank    higher priority first, then the earlier deadline, then the smaller id (who came first).
// Rows    1 every decoding answer's last token and its drafts; 2 within a budget, by rank, pieces
//         of prompts, which end before their last token: that one is the first decoded row, unless
//         it runs with the prompt. No piece goes beyond its next_stop.
// Share   of admitted prompts of one priority and deadline the first has half of the budget, or
//         what the others leave; they have the rest, the one that needs least first: a short prompt
//         does not wait for all of a long one.
// Budget  max_step_rows where nothing decodes. Else what the cost model gives within max_token_gap,
//         its tail included; at its default, kDefaultGapSteps times a step of the decoding rows
//         alone. Now and then such a step runs alone, so that it stays known; and pieces grow no
//         faster than by doubling, into what has not been measured. Where that leaves no row, one
//         step in a hundred, which no promise counts, has a small piece: prompts do not stand
//         still while others decode, and what was measured while the machine was busy is outlived.
// Admit   by rank, those that a state and the blocks of all their tokens are free for, beside what
//         admitted prompts still need, and with whose row all admitted ones, once they decode, keep
//         an explicit max_token_gap. The first that must wait makes those after it wait. Refused
//         are one that nothing could make room for, and a new one whose deadline its prompt alone
//         would miss, or that keeps no max_token_gap even alone.
// Pause   a running answer gives its room to one of higher rank that has none for its next rows, or
//         to a waiting one of higher priority; its rows are run again later. So the first in rank
//         goes on in every step, and all end.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "engine/step_times.h"

namespace cachalot::engine {

inline constexpr double kDefaultGapSteps = 5.5;
inline constexpr int64_t kStepsBetweenDecodes = 32;
inline constexpr int64_t kStepsBetweenPieces = 99;  // at most
inline constexpr int64_t kSmallPiece = 16;          // rows

enum class Phase { waiting, prefilling, decoding, paused, finished };
std::string_view phase_name(Phase phase);

// An unfinished answer.
struct Candidate {
  int64_t id = 0;  // ascending as they come
  Phase phase = Phase::waiting;
  int32_t priority = 0;
  double deadline_s = std::numeric_limits<double>::infinity();
  int64_t num_tokens = 0;  // prompt and output
  int64_t num_cached = 0;  // rows there are, or that it would start with
  int64_t num_drafts = 0;  // proposals at hand
  int64_t next_stop = std::numeric_limits<int64_t>::max();  // where a piece of its prompt ends
  bool is_sampled = true;                                   // false: the prompt is all that runs
  bool runs_last_token = false;                             // as a row of the prompt
  bool has_state = false;                                   // in the cache
  int64_t num_blocks = 0;                                   // held, or that it would start with
  // Of them, free once it is paused; may be 0 where there are blocks for all.
  int64_t num_own = 0;
  bool copies_one = false;  // the next row's block is shared
};

struct Room {
  int64_t free_states = 0;
  int64_t free_blocks = 0;
  int64_t block_tokens = 0;  // 0: no layer keeps blocks
};

struct Promises {
  int64_t max_step_rows = 512;  // of prompts
  // Between two tokens of an answer, but for one in a hundred; 0: the default above.
  double max_token_gap_s = 0;
};

enum class Refusal { no_room, token_gap, deadline };

struct StepPlan {
  struct Rows {
    int64_t id;
    int64_t count;
    bool is_decoded;  // the last of `count` - 1 drafts and a token; else a piece of a prompt
  };
  struct Refused {
    int64_t id;
    Refusal why;
  };
  // An answer, as it was decided on.
  struct Item {
    const Candidate* candidate;
    bool is_running;                                      // and not paused or refused by this plan
    int64_t rows = 0;                                     // planned
    int64_t share = std::numeric_limits<int64_t>::max();  // most rows of a piece
    int64_t blocks = 0;                                   // taken for them
    bool is_decoded = false;
  };
  std::vector<Item> items;       // by rank; of the candidates, while they live
  std::vector<Item*> sharing;    // prompts that go on beside the first one
  std::vector<int64_t> expired;  // their deadline has passed
  std::vector<Refused> refused;
  std::vector<int64_t> paused;
  std::vector<int64_t> admitted;
  std::vector<Rows> rows;
};

// In place of what was in `plan`, whose memory it uses.
void plan_step(std::span<const Candidate> candidates, const Room& room, const CostModel& cost,
               const Promises& promises, double now_s, StepPlan& plan);

// "expired 4; refused 7 (no_room); paused 3; admitted 5 6; decoded 1 2+1; prompt 5:40"
std::string to_string(const StepPlan& plan);

}  // namespace cachalot::engine
