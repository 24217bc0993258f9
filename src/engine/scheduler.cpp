#include "engine/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

namespace cachalot::engine {
namespace {

class Planner {
 public:
  Planner(std::span<const Candidate> candidates, const Room& room, const CostModel& cost,
          const Promises& promises, double now_s, StepPlan& plan)
      : room_(room),
        cost_(cost),
        promises_(promises),
        now_s_(now_s),
        plan_(plan),
        items_(plan.items) {
    items_.clear();
    plan_.expired.clear();
    plan_.refused.clear();
    plan_.paused.clear();
    plan_.admitted.clear();
    plan_.rows.clear();
    for (const Candidate& candidate : candidates) {
      if (candidate.deadline_s <= now_s) {
        plan_.expired.push_back(candidate.id);
        give_back(candidate);
      } else {
        items_.push_back({&candidate, is_running(candidate)});
      }
    }
    std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
      const Candidate &x = *a.candidate, &y = *b.candidate;
      if (x.priority != y.priority) return x.priority > y.priority;
      return x.deadline_s != y.deadline_s ? x.deadline_s < y.deadline_s : x.id < y.id;
    });
  }

  void plan() {
    for (size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].is_running && items_[i].candidate->phase == Phase::decoding) plan_decoded(i);
    }
    set_budget();
    share_budget();
    for (size_t i = 0; i < items_.size(); ++i) {
      const Phase phase = items_[i].candidate->phase;
      if (phase == Phase::prefilling && items_[i].is_running) plan_piece(i);
      const bool waits = phase == Phase::waiting || phase == Phase::paused;
      if (waits && !is_full_ && admit(i)) start(i);
    }
    for (const bool is_decoded : {true, false}) {
      for (const Item& item : items_) {
        if (item.rows > 0 && item.is_decoded == is_decoded)
          plan_.rows.push_back({item.candidate->id, item.rows, is_decoded});
      }
    }
  }

 private:
  using Item = StepPlan::Item;

  static bool is_running(const Candidate& c) {
    return c.phase == Phase::prefilling || c.phase == Phase::decoding;
  }
  static int64_t prompt_end(const Candidate& c) {
    return c.num_tokens - (c.runs_last_token ? 0 : 1);
  }
  // Up to where a piece may go.
  static int64_t rows_left(const Candidate& c) {
    return std::min(prompt_end(c), c.next_stop) - c.num_cached;
  }
  void give_back(const Candidate& c) {
    room_.free_blocks += c.num_own;
    room_.free_states += c.has_state ? 1 : 0;
  }
  int64_t blocks_for(const Candidate& c, int64_t num_tokens) const {
    if (room_.block_tokens == 0) return 0;
    const int64_t blocks = (num_tokens + room_.block_tokens - 1) / room_.block_tokens;
    return std::max<int64_t>(0, blocks - c.num_blocks) + (c.copies_one ? 1 : 0);
  }

  void stop(Item& item) {
    give_back(*item.candidate);
    room_.free_blocks += item.blocks;
    if (item.rows > 0 && item.is_decoded) decoded_rows_ -= item.rows;
    item.rows = item.blocks = 0;
    item.is_running = false;
  }
  void pause(Item& item) {
    plan_.paused.push_back(item.candidate->id);
    stop(item);
  }
  void refuse(Item& item, Refusal why) {
    plan_.refused.push_back({item.candidate->id, why});
    if (item.is_running) stop(item);
  }
  bool any_other_runs(size_t i) const {
    for (size_t j = 0; j < items_.size(); ++j) {
      if (j != i && items_[j].is_running) return true;
    }
    return false;
  }

  // Frees blocks for item i from running ones of lower rank, the last first.
  bool make_room(size_t i, int64_t blocks) {
    for (size_t j = items_.size(); room_.free_blocks < blocks && --j > i;) {
      if (items_[j].is_running) pause(items_[j]);
    }
    return room_.free_blocks >= blocks;
  }
  void take(Item& item, int64_t rows, int64_t blocks, bool is_decoded) {
    item.rows = rows;
    item.blocks = blocks;
    item.is_decoded = is_decoded;
    room_.free_blocks -= blocks;
    if (is_decoded) decoded_rows_ += rows;
  }

  void plan_decoded(size_t i) {
    Item& item = items_[i];
    const Candidate& c = *item.candidate;
    // Drafts are not worth another's room.
    const int64_t with_drafts = blocks_for(c, c.num_tokens + c.num_drafts);
    if (room_.free_blocks >= with_drafts) return take(item, 1 + c.num_drafts, with_drafts, true);
    const int64_t blocks = blocks_for(c, c.num_tokens);
    if (make_room(i, blocks)) return take(item, 1, blocks, true);
    if (any_other_runs(i)) {
      pause(item);
    } else {
      refuse(item, Refusal::no_room);
    }
  }

  // A step of so many decoding rows, and the drafts that this one makes.
  double seconds_alone(int64_t rows) const {
    int64_t num_drafting = 0, num_passes = 0;
    for (const Item& item : items_) {
      if (!item.is_decoded || item.rows <= 1) continue;
      ++num_drafting;
      num_passes = std::max(num_passes, item.rows - 1);
    }
    return cost_.decode.seconds(rows) +
           static_cast<double>(num_passes) * cost_.draft_pass.seconds(num_drafting);
  }

  void set_budget() {
    budget_ = promises_.max_step_rows;
    if (decoded_rows_ == 0 || !cost_.is_known()) return;
    if (!cost_.decode.is_known(decoded_rows_) || cost_.since_decode >= kStepsBetweenDecodes) {
      budget_ = 0;
      return;
    }
    const double alone = seconds_alone(decoded_rows_);
    const double gap =
        promises_.max_token_gap_s > 0 ? promises_.max_token_gap_s : kDefaultGapSteps * alone;
    const int64_t untried = 2 * std::max(cost_.pieces.most_rows(), decoded_rows_);
    const int64_t most = std::min(budget_, untried);
    budget_ = cost_.pieces.rows_within(gap / cost_.tail - alone, most);
    if (budget_ == 0 && cost_.since_pieces >= kStepsBetweenPieces)
      budget_ = std::min(most, kSmallPiece);
  }

  void share_budget() {
    std::vector<Item*>& others = plan_.sharing;
    others.clear();
    Item* first = nullptr;
    int64_t wanted = 0;
    for (Item& item : items_) {
      const Candidate& c = *item.candidate;
      if (c.phase != Phase::prefilling || !item.is_running) continue;
      if (first == nullptr) {
        first = &item;
      } else if (c.priority == first->candidate->priority &&
                 c.deadline_s == first->candidate->deadline_s) {
        others.push_back(&item);
        wanted += rows_left(c);
      }
    }
    if (others.empty()) return;
    const int64_t half = std::min(rows_left(*first->candidate), budget_ - budget_ / 2);
    int64_t rest = std::min(wanted, budget_ - half);
    first->share = budget_ - rest;
    std::sort(others.begin(), others.end(), [](const Item* a, const Item* b) {
      const int64_t x = rows_left(*a->candidate), y = rows_left(*b->candidate);
      return x != y ? x < y : a->candidate->id < b->candidate->id;
    });
    for (Item* item : others) {
      item->share = std::min(rest, rows_left(*item->candidate));
      rest -= item->share;
    }
  }

  void plan_piece(size_t i) {
    Item& item = items_[i];
    const Candidate& c = *item.candidate;
    int64_t rows = std::min({budget_, item.share, rows_left(c)});
    if (rows <= 0) return;
    if (!make_room(i, blocks_for(c, c.num_cached + rows))) {
      const int64_t held = c.num_blocks + room_.free_blocks - (c.copies_one ? 1 : 0);
      rows = std::min(rows, held * room_.block_tokens - c.num_cached);
    }
    if (rows > 0) {
      take(item, rows, blocks_for(c, c.num_cached + rows), false);
      budget_ -= rows;
    } else if (!any_other_runs(i)) {
      refuse(item, Refusal::no_room);
    }
  }

  // Blocks that admitted prompts have not taken yet.
  int64_t promised_blocks() const {
    int64_t blocks = 0;
    for (const Item& item : items_) {
      const bool is_prompt = item.candidate->phase != Phase::decoding && !item.is_decoded;
      if (item.is_running && is_prompt)
        blocks += blocks_for(*item.candidate, item.candidate->num_tokens) - item.blocks;
    }
    return blocks;
  }

  // Of the admitted answers, once their prompts are done too.
  int64_t rows_to_decode() const {
    int64_t rows = 0;
    for (const Item& item : items_) {
      if (item.is_running && item.candidate->is_sampled) rows += item.is_decoded ? item.rows : 1;
    }
    return rows;
  }
  // Whether steps of so many decoding rows keep an explicit gap. Where no such step has been
  // measured, nothing says that they do: the first answer runs alone.
  bool keeps_gap(int64_t rows) const {
    if (promises_.max_token_gap_s == 0) return true;
    if (!cost_.decode.is_known()) return rows == 1;
    return cost_.tail * seconds_alone(rows) <= promises_.max_token_gap_s;
  }

  // Whether item i may start; if so, room for all of its tokens is there.
  bool admit(size_t i) {
    Item& item = items_[i];
    const Candidate& c = *item.candidate;
    const bool is_new = c.phase == Phase::waiting;  // one that has started is not refused
    if (is_new && now_s_ + cost_.prompt.seconds(c.num_tokens - c.num_cached) > c.deadline_s) {
      refuse(item, Refusal::deadline);
      return false;
    }
    const bool others_run = any_other_runs(i);
    if (const int64_t rows = rows_to_decode(); c.is_sampled && !keeps_gap(rows + 1)) {
      if (rows > 0) {
        is_full_ = true;
        return false;
      }
      if (is_new) {
        refuse(item, Refusal::token_gap);
        return false;
      }
    }
    const int64_t states = c.has_state ? 0 : 1;
    const int64_t blocks = blocks_for(c, c.num_tokens) + promised_blocks();
    if (room_.free_states < states || room_.free_blocks < blocks) {
      int64_t free_states = room_.free_states, free_blocks = room_.free_blocks;
      size_t first = items_.size();  // of those that would pause
      while (first > 0 && (free_states < states || free_blocks < blocks)) {
        const Item& victim = items_[--first];
        if (victim.candidate->priority >= c.priority) break;
        if (!victim.is_running) continue;
        free_blocks += victim.candidate->num_own + victim.blocks;
        free_states += victim.candidate->has_state ? 1 : 0;
      }
      if (free_states < states || free_blocks < blocks) {
        if (others_run) {
          is_full_ = true;
        } else {
          refuse(item, Refusal::no_room);
        }
        return false;
      }
      for (size_t j = items_.size(); j-- > first;) {
        if (items_[j].is_running) pause(items_[j]);
      }
    }
    room_.free_states -= states;
    item.is_running = true;
    plan_.admitted.push_back(c.id);
    return true;
  }

  void start(size_t i) {
    Item& item = items_[i];
    const Candidate& c = *item.candidate;
    if (c.num_cached < prompt_end(c)) return plan_piece(i);
    if (c.is_sampled) take(item, 1, blocks_for(c, c.num_tokens), true);
  }

  Room room_;
  const CostModel& cost_;
  const Promises& promises_;
  double now_s_;
  StepPlan& plan_;
  std::vector<Item>& items_;
  int64_t decoded_rows_ = 0;
  int64_t budget_ = 0;
  bool is_full_ = false;  // one waits, and so do those after it
};

std::string_view refusal_name(Refusal refusal) {
  switch (refusal) {
    case Refusal::no_room: return "no_room";
    case Refusal::token_gap: return "token_gap";
    case Refusal::deadline: return "deadline";
  }
  return "unknown";
}

}  // namespace

std::string_view phase_name(Phase phase) {
  switch (phase) {
    case Phase::waiting: return "waiting";
    case Phase::prefilling: return "prefilling";
    case Phase::decoding: return "decoding";
    case Phase::paused: return "paused";
    case Phase::finished: return "finished";
  }
  return "unknown";
}

void plan_step(std::span<const Candidate> candidates, const Room& room, const CostModel& cost,
               const Promises& promises, double now_s, StepPlan& plan) {
  Planner(candidates, room, cost, promises, now_s, plan).plan();
}

std::string to_string(const StepPlan& plan) {
  std::vector<std::string> parts, refused, decoded, prompts;
  const auto list = [&](std::string_view name, const auto& values) {
    if (!values.empty()) parts.push_back(fmt::format("{} {}", name, fmt::join(values, " ")));
  };
  for (const StepPlan::Refused& one : plan.refused)
    refused.push_back(fmt::format("{} ({})", one.id, refusal_name(one.why)));
  for (const StepPlan::Rows& rows : plan.rows) {
    if (!rows.is_decoded) {
      prompts.push_back(fmt::format("{}:{}", rows.id, rows.count));
    } else if (rows.count == 1) {
      decoded.push_back(fmt::format("{}", rows.id));
    } else {
      decoded.push_back(fmt::format("{}+{}", rows.id, rows.count - 1));
    }
  }
  list("expired", plan.expired);
  list("refused", refused);
  list("paused", plan.paused);
  list("admitted", plan.admitted);
  list("decoded", decoded);
  list("prompt", prompts);
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace cachalot::engine
