#include "grammar/character_runs.h"

#include <algorithm>

namespace cachalot::grammar {
namespace {

constexpr size_t kMaxKnown = size_t{1} << 14;
// Fewer ASCII characters than this are walked faster than looked into.
constexpr int kMinCharacters = 24;
// Bounds of one search: sets looked into for the first time, sets, and characters left out.
constexpr int kMaxSteps = 256;
constexpr size_t kMaxReached = 96;
constexpr int kMaxTries = 48;
// Runs that are tried first, and what they may leave out.
constexpr size_t kMaxInsides = 4, kFewTokens = 1024;

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
  for (int i = 0; i < kMaxTries && (inside.others || inside.num_ascii() >= kMinCharacters); ++i) {
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
      // `taken` has characters beyond ASCII only if it has all of them.
      const bool takes_others = run.inside.others && (steps->bytes >> 0x80).any();
      if (missing.is_empty()) continue;
      if (missing != run.inside || takes_others) return cause(reached_[at], missing);
      dead.push_back(at);
    }
    for (const size_t at : layer) {
      const Steps& steps = *steps_of(reached_[at].set);
      run.taken |= steps.bytes;
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
  std::vector<SetId> ends;
  struct Leads {
    uint8_t first, last;
    int more;
    uint8_t next_first, next_last;
  };
  constexpr Leads kLeads[] = {{0xC2, 0xDF, 0, 0x80, 0xBF}, {0xE0, 0xE0, 1, 0xA0, 0xBF},
                              {0xE1, 0xEC, 1, 0x80, 0xBF}, {0xED, 0xED, 1, 0x80, 0x9F},
                              {0xEE, 0xEF, 1, 0x80, 0xBF}, {0xF0, 0xF0, 2, 0x90, 0xBF},
                              {0xF1, 0xF3, 2, 0x80, 0xBF}, {0xF4, 0xF4, 2, 0x80, 0x8F}};
  bool takes_others = true;
  for (const Leads& leads : kLeads) {
    SetId before = Pushdown::kDead;
    for (uint32_t lead = leads.first; lead <= leads.last && takes_others; ++lead) {
      const uint32_t bits = lead & (0x1Fu >> leads.more);
      const bool has_odd = may_be_odd(bits, leads.more + 1);
      const SetId next = pushdown_.step(set, static_cast<uint8_t>(lead));
      if (next == before && !has_odd && next != Pushdown::kDead) continue;
      before = has_odd ? Pushdown::kDead : next;
      takes_others = next != Pushdown::kDead && take_rest(next, bits, leads.next_first,
                                                          leads.next_last, leads.more, steps, ends);
    }
  }
  if (takes_others) {
    steps.taken.others = true;
    for (const SetId end : ends) add_edge(end, {{}, true}, steps);
  }
  return steps;
}

void CharacterRuns::add_edge(SetId to, const CharacterSet& by, Steps& steps) {
  if (by.is_empty()) return;
  note(to, steps);
  const SetId seen = pushdown_.within_horizon(to, kMaxShortBytes);
  steps.is_simple &=
      seen == to || pushdown_.num_configurations(seen) == pushdown_.num_configurations(to);
  steps.taken.ascii[0] |= by.ascii[0];
  steps.taken.ascii[1] |= by.ascii[1];
  const auto known = std::ranges::find(steps.edges, seen, &Edge::to);
  if (known == steps.edges.end()) {
    steps.edges.push_back({seen, by});
  } else {
    known->by.ascii[0] |= by.ascii[0];
    known->by.ascii[1] |= by.ascii[1];
    known->by.others |= by.others;
  }
}

// Continuation bytes from `first` to `last`, then `more` of any; `bits` is what the bytes before
// say. False where one that ends no odd character leads nowhere.
bool CharacterRuns::take_rest(SetId set, uint32_t bits, uint8_t first, uint8_t last, int more,
                              Steps& steps, std::vector<SetId>& ends) {
  note(set, steps);
  SetId before = Pushdown::kDead;
  for (uint32_t byte = first; byte <= last; ++byte) {
    const uint32_t here = bits << 6 | (byte & 0x3F);
    if (is_odd(here, more)) continue;
    const bool has_odd = may_be_odd(here, more);
    const SetId next = pushdown_.step(set, static_cast<uint8_t>(byte));
    if (next == Pushdown::kDead) return false;
    if (next == before && !has_odd) continue;
    before = has_odd ? Pushdown::kDead : next;
    if (more > 0) {
      if (!take_rest(next, here, 0x80, 0xBF, more - 1, steps, ends)) return false;
    } else if (std::ranges::find(ends, next) == ends.end()) {
      ends.push_back(next);
    }
  }
  return true;
}

void CharacterRuns::note(SetId set, Steps& steps) const {
  steps.leaves_cut |= pushdown_.left_cut(set);
  steps.nesting = std::max(steps.nesting, pushdown_.nesting(set));
  steps.num_configurations = std::max(steps.num_configurations, pushdown_.num_configurations(set));
}

}  // namespace cachalot::grammar
