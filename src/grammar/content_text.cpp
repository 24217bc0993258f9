#include "grammar/content_text.h"

#include <array>
#include <map>
#include <tuple>

#include "grammar/pattern_table.h"

namespace cachalot::grammar {
namespace {

// As text::CodeFence, with what no longer matters forgotten, so that there are few states.
class FenceState {
 public:
  bool operator==(const FenceState&) const = default;
  auto operator<=>(const FenceState&) const = default;

  bool is_open() const { return open_length_ > 0; }

  void feed(char c) {
    if (open_length_ > kMaxMarks) return;
    if (c == '\n') {
      end_line();
      return;
    }
    switch (part_) {
      case Part::indent:
        if (c == ' ' && indent_ < 3) {
          ++indent_;
        } else if (c == '`' || c == '~') {
          indent_ = 0;
          part_ = Part::fence;
          mark_ = c;
          length_ = 1;
        } else {
          set_other();
        }
        break;
      case Part::fence:
        if (c == mark_) {
          if (length_ <= kMaxMarks) ++length_;
        } else if (length_ < 3) {
          set_other();
        } else {
          part_ = Part::after;
        }
        break;
      case Part::after:
      case Part::other: break;
    }
    if (is_open() && part_ >= Part::fence && mark_ != open_mark_) set_other();
    if (part_ != Part::after) return;
    const bool is_text = c != ' ' && c != '\t' && c != '\r';
    if (is_open() ? is_text || length_ < open_length_ : mark_ == '`' && c == '`') set_other();
  }

 private:
  enum class Part { indent, other, fence, after };
  // A fence of more marks is never closed, for all that is known here.
  static constexpr int kMaxMarks = 6;

  void set_other() {
    part_ = Part::other;
    mark_ = 0;
    indent_ = length_ = 0;
  }
  void end_line() {
    const bool is_fence = part_ >= Part::fence && length_ >= 3;
    if (is_open() && is_fence && length_ >= open_length_) {
      open_mark_ = 0;
      open_length_ = 0;
    } else if (!is_open() && is_fence) {
      open_mark_ = mark_;
      open_length_ = length_;
    }
    set_other();
    part_ = Part::indent;
  }

  char open_mark_ = 0;
  int open_length_ = 0;
  Part part_ = Part::indent;
  char mark_ = 0;
  int indent_ = 0;
  int length_ = 0;
};

}  // namespace

Expression content_text(GrammarSource& source, std::span<const std::string> patterns,
                        Expression calls) {
  const PatternTable table(patterns);
  using State = std::tuple<FenceState, int32_t, bool>;  // the last: white space came last
  std::map<State, int32_t> ids;
  std::vector<State> states;
  const auto id_of = [&](const State& state) {
    const auto [it, is_new] = ids.try_emplace(state, static_cast<int32_t>(states.size()));
    if (is_new) states.push_back(state);
    return it->second;
  };
  id_of({FenceState(), 0, false});
  std::vector<GrammarSource::GraphEdge> edges;
  std::vector<int32_t> before_calls;
  for (size_t i = 0; i < states.size(); ++i) {
    const auto from = static_cast<int32_t>(i);
    std::array<int32_t, 256> next{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const auto [fence, found, is_space] = states[i];
      FenceState after = fence;
      after.feed(static_cast<char>(byte));
      const int32_t pattern = table.next(found, static_cast<uint8_t>(byte));
      const bool is_blank = byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
      next[byte] = table.is_found(pattern) ? -1 : id_of({after, pattern, is_blank});
    }
    for (uint32_t first = 0; first < 256;) {
      uint32_t last = first;
      while (last < 255 && next[last + 1] == next[first]) ++last;
      if (next[first] >= 0) {
        edges.push_back({from,
                         source.bytes(static_cast<uint8_t>(first), static_cast<uint8_t>(last)),
                         next[first]});
      }
      first = last + 1;
    }
    FenceState ended = std::get<0>(states[i]);
    ended.feed('\n');
    if (!ended.is_open() && !std::get<2>(states[i])) before_calls.push_back(from);
  }
  const auto start_of_calls = static_cast<int32_t>(states.size());
  const int32_t final = start_of_calls + 1;
  for (int32_t state = 0; state < start_of_calls; ++state)
    edges.push_back({state, source.empty(), final});
  for (const int32_t state : before_calls) edges.push_back({state, source.empty(), start_of_calls});
  edges.push_back({start_of_calls, calls, final});
  return source.graph(final + 1, final, std::move(edges));
}

}  // namespace cachalot::grammar
