#include "grammar/character_runs.h"

#include <algorithm>
#include <bit>
#include <deque>

namespace cachalot::grammar {
namespace {

constexpr size_t kMaxKnown = size_t{1} << 14;
// Fewer ASCII characters than this, and others of fewer tokens, are walked faster than looked into.
constexpr int kMinAscii = 24;
constexpr size_t kMinTokens = 2048;
// Bounds of one search: sets looked into for the first time, sets, and characters left out.
constexpr int kMaxSteps = 256;
constexpr size_t kMaxReached = 96;
constexpr int kMaxTries = 48;
// Runs that are tried first, and what they may leave out.
constexpr size_t kMaxInsides = 4, kFewTokens = 1024;
// Bounds of looking into a set's characters beyond ASCII: steps, and sets that they lead to.
constexpr int kMaxBeyondSteps = 4096;
constexpr size_t kMaxEnds = 32;

}  // namespace

const CharacterRun& CharacterRuns::find(SetId set, uint64_t work_limit) {
  if (const auto it = runs_.find(set); it != runs_.end()) return it->second;
  if (runs_.size() > kMaxKnown) runs_.clear();
  return runs_[set] = make(set, work_limit);
}

CharacterRun CharacterRuns::make(SetId start, uint64_t work_limit) {
  if (steps_.size() > kMaxKnown) steps_.clear();
  work_limit_ = work_limit;
  steps_left_ = kMaxSteps;
  const Steps* first = steps_of(start);
  if (first == nullptr) return {};
  CharacterSet inside = first->taken;
  // Most often the characters are those of a run that was found before.
  for (const CharacterSet& known : insides_) {
    const CharacterSet common = known.common(inside);
    if (contents_.num_tokens_with(inside.without(common)) > kFewTokens) continue;
    inside = common;
    break;
  }
  const auto has_many = [&] {
    return inside.num_ascii() >= kMinAscii ||
           contents_.num_tokens_with({{}, inside.groups}) >= kMinTokens;
  };
  for (int i = 0; i < kMaxTries && has_many(); ++i) {
    CharacterRun run;
    run.inside = inside;
    const CharacterSet left_out = follow(start, run);
    if (run.count > 0) {
      std::erase(insides_, inside);
      insides_.insert(insides_.begin(), inside);
      if (insides_.size() > kMaxInsides) insides_.pop_back();
      return run;
    }
    if (left_out.is_empty()) return {};
    inside = inside.without(left_out);
  }
  return {};
}

CharacterSet CharacterRuns::follow(SetId start, CharacterRun& run) {
  reached_.assign(1, {start, -1, {}});
  size_t num_known = 0;  // of reached_: they take all of the characters
  std::vector<size_t> layer = {0}, next;
  for (int count = 0;; ++count) {
    std::vector<size_t> dead;
    for (const size_t at : layer) {
      const Steps* steps = steps_of(reached_[at].set);
      if (steps == nullptr) return {};
      const CharacterSet missing = run.inside.without(steps->taken);
      if (missing.is_empty()) continue;
      // Of a group that is missing some characters may be taken.
      if (missing != run.inside || (run.inside.groups & steps->groups) != 0)
        return cause(reached_[at], missing);
      dead.push_back(at);
    }
    for (const size_t at : layer) {
      const Steps& steps = *steps_of(reached_[at].set);
      run.taken |= steps.bytes;
      run.groups |= steps.groups;
      run.leaves_cut |= steps.leaves_cut;
      run.nesting = std::max(run.nesting, steps.nesting);
      run.num_configurations = std::max(run.num_configurations, steps.num_configurations);
    }
    if (!dead.empty() && dead.size() < layer.size())
      return cause(reached_[dead.front()], run.inside);
    const bool is_closed = std::ranges::all_of(layer, [&](size_t at) { return at < num_known; });
    if (!dead.empty() || is_closed || count == kMaxShortBytes) {
      run.count = is_closed ? kMaxShortBytes : count;
      return {};
    }
    num_known = reached_.size();
    next.clear();
    for (const size_t from : layer) {
      const Steps& steps = *steps_of(reached_[from].set);
      if (!steps.is_simple) return {};
      for (const Edge& edge : steps.edges) {
        const CharacterSet by = edge.by.common(run.inside);
        if (by.is_empty()) continue;
        run.leaves_cut |= pushdown_.left_cut(edge.to);
        const auto known = std::ranges::find(reached_, edge.to, &Reached::set);
        const auto at = static_cast<size_t>(known - reached_.begin());
        if (known == reached_.end()) reached_.push_back({edge.to, static_cast<int32_t>(from), by});
        if (std::ranges::find(next, at) == next.end()) next.push_back(at);
      }
    }
    if (reached_.size() > kMaxReached) {
      // Without the rarest way to one of them there will be fewer.
      return std::ranges::min_element(
                 reached_.begin() + 1, reached_.end(), {},
                 [&](const Reached& r) { return contents_.num_tokens_with(r.by); })
          ->by;
    }
    std::swap(layer, next);
  }
}

// Either the characters that a set does not take, or those that led to it or to one before it: what
// the fewest tokens have.
CharacterSet CharacterRuns::cause(const Reached& reached, const CharacterSet& missing) const {
  CharacterSet best = missing;
  size_t lowest = contents_.num_tokens_with(missing);
  for (const Reached* at = &reached; at->from >= 0; at = &reached_[static_cast<size_t>(at->from)]) {
    const size_t weight = contents_.num_tokens_with(at->by);
    if (weight < lowest) {
      lowest = weight;
      best = at->by;
    }
  }
  return best;
}

const CharacterRuns::Steps* CharacterRuns::steps_of(SetId set) {
  if (const auto it = steps_.find(set); it != steps_.end()) return &it->second;
  if (--steps_left_ < 0 || pushdown_.work() > work_limit_) return nullptr;
  return &(steps_[set] = make_steps(set));
}

CharacterRuns::Steps CharacterRuns::make_steps(SetId set) {
  Steps steps;
  note(set, steps);
  for (uint32_t byte = 0; byte < 256; ++byte)
    steps.bytes[byte] = pushdown_.step(set, static_cast<uint8_t>(byte)) != Pushdown::kDead;
  SetId last = Pushdown::kDead;
  CharacterSet by;
  for (uint8_t c = 0; c < 0x80; ++c) {
    if (!steps.bytes[c]) continue;
    const SetId next = pushdown_.step(set, c);
    if (next != last) {
      add_edge(last, by, steps);
      by = {};
      last = next;
    }
    by.add(c);
  }
  add_edge(last, by, steps);
  if ((steps.bytes >> 0x80).any()) add_beyond(set, steps);
  return steps;
}

void CharacterRuns::add_edge(SetId to, const CharacterSet& by, Steps& steps) {
  if (by.is_empty()) return;
  note_size(to, steps);
  const SetId seen = pushdown_.within_horizon(to, kMaxShortBytes);
  steps.is_simple &=
      seen == to || pushdown_.num_configurations(seen) == pushdown_.num_configurations(to);
  steps.taken.add(by);
  const auto known = std::ranges::find(steps.edges, seen, &Edge::to);
  if (known == steps.edges.end()) {
    steps.edges.push_back({seen, by});
  } else {
    known->by.add(by);
  }
}

// Where any continuation bytes from `first` to `last` lead, and then `more` of any.
struct CharacterRuns::Rest {
  SetId set;
  uint8_t first, last;
  int more;
  bool takes_all = true;
  std::vector<SetId> ends = {};
};

struct CharacterRuns::Beyond {
  struct End {
    SetId to;
    uint64_t groups;
  };

  // Whether there is more to learn of the groups.
  bool is_open(uint64_t groups) const { return (groups & ~(refused & taken)) != 0; }
  void add(SetId to, uint64_t groups) {
    taken |= groups;
    const auto known = std::ranges::find(ends, to, &End::to);
    if (known != ends.end()) {
      known->groups |= groups;
    } else if (ends.size() < kMaxEnds) {
      ends.push_back({to, groups});
    } else {
      refused |= groups;
    }
  }

  Steps* steps;
  // Groups of which some characters are, or of which one could seem to be.
  uint64_t taken = 0, refused = 0;
  std::vector<End> ends = {};
  std::deque<Rest> rests = {};  // never moved
  int steps_left = kMaxBeyondSteps;
};

void CharacterRuns::add_beyond(SetId set, Steps& steps) {
  struct Leads {
    uint8_t first, last;
    int more;
    uint8_t next_first, next_last;
  };
  constexpr Leads kLeads[] = {{0xC2, 0xDF, 0, 0x80, 0xBF}, {0xE0, 0xE0, 1, 0xA0, 0xBF},
                              {0xE1, 0xEC, 1, 0x80, 0xBF}, {0xED, 0xED, 1, 0x80, 0x9F},
                              {0xEE, 0xEF, 1, 0x80, 0xBF}, {0xF0, 0xF0, 2, 0x90, 0xBF},
                              {0xF1, 0xF3, 2, 0x80, 0xBF}, {0xF4, 0xF4, 2, 0x80, 0x8F}};
  Beyond beyond = {.steps = &steps};
  for (const Leads& leads : kLeads) {
    for (uint32_t lead = leads.first; lead <= leads.last; ++lead) {
      const uint32_t bits = lead & (0x1Fu >> leads.more);
      const uint64_t groups = groups_of(bits, leads.more + 1);
      const SetId next = pushdown_.step(set, static_cast<uint8_t>(lead));
      if (next == Pushdown::kDead) {
        beyond.refused |= groups;
        continue;
      }
      note(next, steps);
      const Rest& rest = rest_of(next, leads.next_first, leads.next_last, leads.more, beyond);
      if (rest.takes_all) {
        for (const SetId end : rest.ends) beyond.add(end, groups);
      } else if (beyond.is_open(groups)) {
        read_rest(next, bits, leads.next_first, leads.next_last, leads.more, beyond);
      }
    }
  }
  steps.groups = beyond.taken;
  for (const auto& [to, groups] : beyond.ends) add_edge(to, {{}, groups & ~beyond.refused}, steps);
}

const CharacterRuns::Rest& CharacterRuns::rest_of(SetId set, uint8_t first, uint8_t last, int more,
                                                  Beyond& beyond) {
  for (const Rest& known : beyond.rests) {
    if (known.set == set && known.first == first && known.last == last && known.more == more)
      return known;
  }
  Rest made = {set, first, last, more};
  SetId before = Pushdown::kDead;
  for (uint32_t byte = first; byte <= last && made.takes_all; ++byte) {
    const SetId next = pushdown_.step(set, static_cast<uint8_t>(byte));
    made.takes_all = next != Pushdown::kDead && --beyond.steps_left > 0;
    if (next == before || !made.takes_all) continue;
    before = next;
    note(next, *beyond.steps);
    if (more == 0) {
      if (std::ranges::find(made.ends, next) == made.ends.end()) made.ends.push_back(next);
    } else {
      const Rest& rest = rest_of(next, 0x80, 0xBF, more - 1, beyond);
      made.takes_all = rest.takes_all;
      for (const SetId end : rest.ends) {
        if (std::ranges::find(made.ends, end) == made.ends.end()) made.ends.push_back(end);
      }
    }
    made.takes_all &= made.ends.size() <= kMaxEnds;
  }
  return beyond.rests.emplace_back(std::move(made));
}

// Continuation bytes one by one; `bits` is what the bytes before say.
void CharacterRuns::read_rest(SetId set, uint32_t bits, uint8_t first, uint8_t last, int more,
                              Beyond& beyond) {
  const uint64_t around = groups_of(bits, more + 1);
  for (uint32_t byte = first; byte <= last; ++byte) {
    const uint32_t here = bits << 6 | (byte & 0x3F);
    if (is_odd(here, more)) {
      // Up to here it looks like a character of the group that is alone around it.
      if (std::has_single_bit(around) && (around & ~beyond.taken) != 0 &&
          (--beyond.steps_left <= 0 ||
           pushdown_.step(set, static_cast<uint8_t>(byte)) != Pushdown::kDead))
        beyond.taken |= around;
      continue;
    }
    const uint64_t groups = groups_of(here, more);
    if (!beyond.is_open(groups)) continue;
    if (--beyond.steps_left <= 0) {
      // Not known: as if some were taken, and some refused.
      beyond.taken |= groups;
      beyond.refused |= groups;
      continue;
    }
    const SetId next = pushdown_.step(set, static_cast<uint8_t>(byte));
    if (next == Pushdown::kDead) {
      beyond.refused |= groups;
      continue;
    }
    note(next, *beyond.steps);
    if (more == 0) {
      beyond.add(next, groups);
    } else if (const Rest& rest = rest_of(next, 0x80, 0xBF, more - 1, beyond); rest.takes_all) {
      for (const SetId end : rest.ends) beyond.add(end, groups);
    } else {
      read_rest(next, here, 0x80, 0xBF, more - 1, beyond);
    }
  }
}

void CharacterRuns::note(SetId set, Steps& steps) const {
  steps.leaves_cut |= pushdown_.left_cut(set);
  note_size(set, steps);
}

void CharacterRuns::note_size(SetId set, Steps& steps) const {
  steps.nesting = std::max(steps.nesting, pushdown_.nesting(set));
  steps.num_configurations = std::max(steps.num_configurations, pushdown_.num_configurations(set));
}

}  // namespace cachalot::grammar
