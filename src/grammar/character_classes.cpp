#include "grammar/character_classes.h"

#include <algorithm>
#include <functional>
#include <map>
#include <span>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "grammar/expression.h"
#include "grammar/utf8_bytes.h"

namespace cachalot::grammar {
namespace {

constexpr uint32_t kEnd = kMaxCodePoint + 1;
// A set of so many letters of ASCII, or characters beyond it, is large.
constexpr uint32_t kManyLetters = 13, kManyOthers = 64;
// Bounds of the classes after each of three kinds of sets (choose() below), and of sets of a kind.
constexpr uint32_t kMaxWithEntries = 16, kMaxWithSmall = 32;
constexpr size_t kMaxSets = 512, kMaxTogether = 64, kMaxLetterSets = 8, kFewSets = 8;

using Ranges = std::vector<std::pair<uint32_t, uint32_t>>;  // first, last

uint32_t size_in(const Ranges& ranges, uint32_t from, uint32_t to) {
  uint32_t size = 0;
  for (const auto& [first, last] : ranges) {
    if (first <= to && from <= last) size += std::min(last, to) - std::max(first, from) + 1;
  }
  return size;
}
uint32_t num_letters(const Ranges& ranges) {
  return size_in(ranges, 'a', 'z') + size_in(ranges, 'A', 'Z');
}
bool is_large(const Ranges& ranges) {
  return num_letters(ranges) >= kManyLetters || size_in(ranges, 0x80, kMaxCodePoint) >= kManyOthers;
}
std::string utf8_of(uint32_t code_point) {
  std::array<uint8_t, 4> bytes{};
  const size_t size = encode_utf8(code_point, bytes);
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)};
}

}  // namespace

class CharacterClasses::Builder {
 public:
  Builder(const Automaton& automaton, CharacterClasses& out) : automaton_(automaton), out_(out) {}

  void run() {
    const auto num_states = static_cast<int32_t>(automaton_.states().size());
    for (int32_t state = 0; state < num_states; ++state) find_sets(state);
    use_begin_.push_back(uses_.size());
    choose();
    out_.is_told_.resize(static_cast<size_t>(num_states));
    std::vector<char> follows(sets_.size());
    for (size_t set = 0; set < sets_.size(); ++set) follows[set] = is_followed(*sets_[set].ranges);
    for (size_t state = 0; state < out_.is_told_.size(); ++state) {
      bool is_told = !is_odd_[state];
      bool has_large = false;
      for (const Use& use : uses_of(state)) {
        is_told &= follows[use.set] != 0;
        has_large |= sets_[use.set].is_large;
      }
      out_.is_told_[state] = is_told;
      out_.is_useful_ |= is_told && has_large;
    }
  }

 private:
  // The code points, from `first` on, that lead to a state.
  struct Lead {
    int32_t target;
    uint32_t first, last;
    auto operator<=>(const Lead&) const = default;
  };
  // What continuation bytes do, `missing` of them; the code points count from 0.
  struct Rest {
    bool is_odd = false;
    std::vector<Lead> leads;
  };
  struct Set {
    const Ranges* ranges = nullptr;
    bool is_large = false;
  };
  struct Use {
    size_t set;
    int32_t target;
  };

  const Rest& rest(int32_t state, int missing) {
    const auto [it, is_new] =
        rests_.try_emplace(int64_t{state} * 4 + missing);  // its address does not change
    if (!is_new) return it->second;
    Rest made;
    const Automaton::State& s = automaton_.state(state);
    made.is_odd = s.is_final || s.call_begin < s.call_end;
    for (const ByteEdge& edge : automaton_.byte_edges(s)) {
      const uint32_t first = std::max<uint32_t>(edge.first, 0x80);
      const uint32_t last = std::min<uint32_t>(edge.last, 0xBF);
      if (first > last) continue;
      if (missing == 1) {
        made.leads.push_back({edge.target, first - 0x80, last - 0x80});
        continue;
      }
      const Rest& more = rest(edge.target, missing - 1);
      made.is_odd |= more.is_odd;
      for (uint32_t byte = first; byte <= last; ++byte) {
        const uint32_t base = (byte - 0x80) << (6 * (missing - 1));
        for (const Lead& lead : more.leads)
          made.leads.push_back({lead.target, base + lead.first, base + lead.last});
      }
    }
    join(made.leads);
    return rests_[int64_t{state} * 4 + missing] = std::move(made);
  }
  static void join(std::vector<Lead>& leads) {
    std::sort(leads.begin(), leads.end());
    size_t kept = 0;
    for (const Lead& lead : leads) {
      if (kept > 0 && leads[kept - 1].target == lead.target &&
          lead.first <= leads[kept - 1].last + 1) {
        leads[kept - 1].last = std::max(leads[kept - 1].last, lead.last);
      } else {
        leads[kept++] = lead;
      }
    }
    leads.resize(kept);
  }

  void find_sets(int32_t state) {
    use_begin_.push_back(uses_.size());
    bool is_odd = false;
    leads_.clear();
    for (const ByteEdge& edge : automaton_.byte_edges(automaton_.state(state))) {
      if (edge.first < 0x80)
        leads_.push_back({edge.target, edge.first, std::min<uint32_t>(edge.last, 0x7F)});
      const uint32_t last = std::min<uint32_t>(edge.last, 0xF4);
      for (uint32_t byte = std::max<uint32_t>(edge.first, 0xC2); byte <= last; ++byte) {
        const int missing = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
        const Rest& more = rest(edge.target, missing);
        is_odd |= more.is_odd;
        const uint32_t base = (byte & (0x3Fu >> missing)) << (6 * missing);
        // What is shorter in UTF-8, surrogates, and what is beyond Unicode is not spelled so.
        const uint32_t lowest = byte == 0xE0 ? 0x800 : byte == 0xF0 ? 0x10000 : base;
        const uint32_t highest = byte == 0xED   ? 0xD7FF
                                 : byte == 0xF4 ? kMaxCodePoint
                                                : base + (1u << (6 * missing)) - 1;
        for (const Lead& lead : more.leads) {
          const uint32_t first = std::max(base + lead.first, lowest);
          const uint32_t end = std::min(base + lead.last, highest);
          if (first <= end) leads_.push_back({lead.target, first, end});
        }
      }
    }
    is_odd_.push_back(is_odd);
    join(leads_);
    for (size_t i = 0; i < leads_.size();) {
      Ranges ranges;
      const int32_t target = leads_[i].target;
      for (; i < leads_.size() && leads_[i].target == target; ++i)
        ranges.emplace_back(leads_[i].first, leads_[i].last);
      const auto [it, is_new] = set_ids_.try_emplace(std::move(ranges), sets_.size());
      if (is_new) sets_.push_back({&it->first, is_large(it->first)});
      uses_.push_back({it->second, target});
    }
  }
  std::span<const Use> uses_of(size_t state) const {
    return std::span(uses_).subspan(use_begin_[state], use_begin_[state + 1] - use_begin_[state]);
  }

  // Large sets first. A state that takes one and goes on in a state that takes another is entered,
  // and may single out any characters, as where names are told from all others: such sets are
  // followed together or not at all. Last come the small sets beside the large ones.
  void choose() {
    std::vector<size_t> counts(sets_.size()), entries(sets_.size()), smalls(sets_.size());
    const auto num_states = automaton_.states().size();
    for (size_t state = 0; state < num_states; ++state) {
      for (const Use& use : uses_of(state)) {
        if (!sets_[use.set].is_large) continue;
        bool is_entry = false;
        for (const Use& next : uses_of(static_cast<size_t>(use.target))) {
          if (next.set == use.set) {
            is_entry = false;
            break;
          }
          is_entry |= sets_[next.set].is_large;
        }
        ++(is_entry ? entries : counts)[use.set];
      }
    }
    for (const size_t set : most_used(counts)) tell(set, kMaxClasses);
    const auto before = std::pair(out_.intervals_, num_classes_);
    for (const size_t set : most_used(entries)) {
      if (tell(set, kMaxWithEntries)) continue;
      std::tie(out_.intervals_, num_classes_) = before;
      break;
    }
    std::vector<char> follows(sets_.size());
    for (size_t set = 0; set < sets_.size(); ++set)
      follows[set] = sets_[set].is_large && is_followed(*sets_[set].ranges);
    const auto is_run = [&](int32_t state) {
      const auto uses = uses_of(static_cast<size_t>(state));
      const auto is_large = [&](const Use& use) { return sets_[use.set].is_large; };
      return std::ranges::any_of(uses, is_large) && std::ranges::all_of(uses, [&](const Use& use) {
               return !sets_[use.set].is_large || follows[use.set] != 0;
             });
    };
    std::vector<char> is_in_loop(sets_.size());
    find_callers();
    for (size_t i = 0; i < num_states; ++i) {
      const auto state = static_cast<int32_t>(i);
      const Automaton::State& s = automaton_.state(state);
      together_.clear();
      ++stamp_;
      if (is_run(state)) {
        bool is_loop = false;
        for (const Use& use : uses_of(i)) {
          if (!sets_[use.set].is_large) continue;
          add_together(use.target);
          is_loop |= use.target == state;
        }
        for (const Use& use : uses_of(i)) is_in_loop[use.set] |= is_loop;
      } else if (s.call_begin == s.call_end) {
        continue;
      }
      add_together(state);
      gather();
      if (std::ranges::none_of(together_, is_run)) continue;
      for (const int32_t one : together_) {
        for (const Use& use : uses_of(static_cast<size_t>(one)))
          smalls[use.set] += !sets_[use.set].is_large;
      }
    }
    // Where there are few sets in all, each is followed, so that all states are told.
    if (sets_.size() <= kFewSets) {
      for (size_t set = 0; set < sets_.size(); ++set) smalls[set] += !sets_[set].is_large;
    }
    // Letters, if they are many, make many words of one: not those of whole dictionaries.
    std::vector<size_t> letters;
    for (const size_t set : most_used(smalls)) {
      if (num_letters(*sets_[set].ranges) > 0 && !is_in_loop[set]) {
        letters.push_back(set);
      } else {
        tell(set, kMaxWithSmall);
      }
    }
    if (letters.size() > kMaxLetterSets) letters.clear();
    for (const size_t set : letters) tell(set, kMaxWithSmall);
    finish();
  }

  // For the states at which rules start: those to which they may return.
  void find_callers() {
    returns_.resize(automaton_.states().size());
    rule_start_.resize(returns_.size());
    mark_.resize(returns_.size());
    for (const Automaton::Rule& rule : automaton_.rules())
      rule_start_[static_cast<size_t>(rule.start)] = rule.start;
    for (size_t i = 0; i < returns_.size(); ++i) {
      rule_start_[i] = std::max(rule_start_[i], i == 0 ? 0 : rule_start_[i - 1]);
      for (const CallEdge& edge : automaton_.call_edges(automaton_.states()[i])) {
        const int32_t start = automaton_.rule(edge.rule).start;
        auto& to = returns_[static_cast<size_t>(start)];
        to.push_back(edge.target);
        if (edge.max > 1) to.push_back(start);
      }
    }
  }
  void add_together(int32_t state) {
    int32_t& mark = mark_[static_cast<size_t>(state)];
    if (mark == stamp_ || together_.size() >= kMaxTogether) return;
    mark = stamp_;
    together_.push_back(state);
  }
  // What may come next at one place, where some of it does: the starts of rules that are called,
  // and what comes after rules that end.
  void gather() {
    for (size_t k = 0; k < together_.size(); ++k) {  // it grows
      const Automaton::State& state = automaton_.state(together_[k]);
      for (const CallEdge& edge : automaton_.call_edges(state))
        add_together(automaton_.rule(edge.rule).start);
      if (!state.is_final) continue;
      const int32_t start = rule_start_[static_cast<size_t>(together_[k])];
      for (const int32_t to : returns_[static_cast<size_t>(start)]) add_together(to);
    }
  }

  static std::vector<size_t> most_used(const std::vector<size_t>& counts) {
    std::vector<size_t> sets;
    for (size_t set = 0; set < counts.size(); ++set) {
      if (counts[set] > 0) sets.push_back(set);
    }
    std::ranges::stable_sort(sets, std::greater(), [&](size_t set) { return counts[set]; });
    sets.resize(std::min(sets.size(), kMaxSets));
    return sets;
  }

  // Splits the classes at the set; false, and nothing is split, where there would be too many.
  bool tell(size_t set, size_t max_classes) {
    const Ranges& ranges = *sets_[set].ranges;
    std::vector<Interval> split;
    std::map<std::pair<uint32_t, bool>, uint32_t> ids;
    const auto add = [&](uint32_t first, uint32_t cls, bool is_in) {
      const auto id =
          ids.try_emplace({cls, is_in}, static_cast<uint32_t>(ids.size())).first->second;
      if (split.empty() || split.back().cls != id) split.push_back({first, id});
    };
    size_t r = 0;
    for (size_t i = 0; i < out_.intervals_.size(); ++i) {
      const uint32_t end = i + 1 < out_.intervals_.size() ? out_.intervals_[i + 1].first : kEnd;
      const uint32_t cls = out_.intervals_[i].cls;
      for (uint32_t at = out_.intervals_[i].first; at < end;) {
        while (r < ranges.size() && ranges[r].second < at) ++r;
        const bool is_in = r < ranges.size() && ranges[r].first <= at;
        add(at, cls, is_in);
        const uint32_t next = r == ranges.size() ? end
                              : is_in            ? ranges[r].second + 1
                                                 : ranges[r].first;
        at = std::min(end, next);
      }
    }
    if (ids.size() > std::max(max_classes, num_classes_)) return false;
    out_.intervals_ = std::move(split);
    num_classes_ = ids.size();
    return true;
  }

  // The set is made of whole classes.
  bool is_followed(const Ranges& ranges) const {
    std::vector<uint32_t> inside(num_classes_), all(num_classes_);
    size_t r = 0;
    for (size_t i = 0; i < out_.intervals_.size(); ++i) {
      const uint32_t first = out_.intervals_[i].first;
      const uint32_t end = i + 1 < out_.intervals_.size() ? out_.intervals_[i + 1].first : kEnd;
      all[out_.intervals_[i].cls] += end - first - num_surrogates(first, end - 1);
      for (; r < ranges.size() && ranges[r].first < end; ++r) {
        const uint32_t from = std::max(first, ranges[r].first);
        const uint32_t to = std::min(end - 1, ranges[r].second);
        if (from <= to) inside[out_.intervals_[i].cls] += to - from + 1 - num_surrogates(from, to);
        if (ranges[r].second >= end) break;
      }
    }
    for (size_t cls = 0; cls < all.size(); ++cls) {
      if (inside[cls] != 0 && inside[cls] != all[cls]) return false;
    }
    return true;
  }
  static uint32_t num_surrogates(uint32_t first, uint32_t last) {
    return size_in({{0xD800, 0xDFFF}}, first, last);
  }
  void finish() {
    out_.basic_.resize(0x10000);
    std::vector<uint32_t> examples(num_classes_, kEnd);
    for (size_t i = 0; i < out_.intervals_.size(); ++i) {
      const Interval& at = out_.intervals_[i];
      const uint32_t end = i + 1 < out_.intervals_.size() ? out_.intervals_[i + 1].first : kEnd;
      for (uint32_t c = at.first; c < std::min<uint32_t>(end, 0x10000); ++c)
        out_.basic_[c] = static_cast<uint8_t>(at.cls);
      uint32_t& example = examples[at.cls];
      if (example != kEnd) continue;
      const bool is_surrogate = at.first >= 0xD800 && at.first < 0xE000;
      if (!is_surrogate) {
        example = at.first;
      } else if (end > 0xE000) {
        example = 0xE000;
      }
    }
    // A class of nothing but surrogates has none.
    for (const uint32_t example : examples)
      out_.examples_.push_back(example == kEnd ? std::string() : utf8_of(example));
  }

  const Automaton& automaton_;
  CharacterClasses& out_;
  std::unordered_map<int64_t, Rest> rests_;
  std::vector<Lead> leads_;
  std::map<Ranges, size_t> set_ids_;
  std::vector<Set> sets_;
  std::vector<Use> uses_;
  std::vector<size_t> use_begin_;  // by state
  std::vector<char> is_odd_;       // by state
  size_t num_classes_ = 1;
  std::vector<std::vector<int32_t>> returns_;  // by start
  std::vector<int32_t> rule_start_, mark_;     // by state
  std::vector<int32_t> together_;
  int32_t stamp_ = 0;
};

CharacterClasses::CharacterClasses(const Automaton& automaton) { Builder(automaton, *this).run(); }

uint32_t CharacterClasses::of_interval(uint32_t code_point) const {
  const auto after = std::ranges::upper_bound(intervals_, code_point, {}, &Interval::first);
  return std::prev(after)->cls;
}

}  // namespace cachalot::grammar
