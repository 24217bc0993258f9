#include "data/fim.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "data/streams.h"
#include "text/chat_literals.h"

namespace cachalot::data {

Result<FimTokens> fim_tokens(const text::Tokenizer& tokenizer) {
  FimTokens tokens;
  const std::pair<std::string_view, int32_t*> wanted[] = {{text::kFimBegin, &tokens.begin},
                                                          {text::kFimHole, &tokens.hole},
                                                          {text::kFimEnd, &tokens.end}};
  for (const auto& entry : wanted) {
    const std::string_view content = entry.first;
    const auto added = tokenizer.added_tokens();
    const auto found = std::find_if(added.begin(), added.end(),
                                    [&](const auto& token) { return token.content == content; });
    if (found == added.end()) {
      return not_found(fmt::format("tokenizer: expected the token {}, found none", content));
    }
    *entry.second = found->id;
  }
  return tokens;
}

std::optional<FimCut> draw_fim_cut(RngStream rng, int64_t length, double rate) {
  CACHALOT_CHECK(length >= 0);
  if (length == 0 || rng.next_unit() >= rate) return std::nullopt;
  const auto places = static_cast<uint64_t>(length) + 1;
  const auto a = static_cast<int64_t>(draw_below(rng, places));
  const auto b = static_cast<int64_t>(draw_below(rng, places));
  return FimCut{.prefix_end = std::min(a, b), .suffix_begin = std::max(a, b)};
}

std::array<FimRun, 8> fim_runs(int64_t length, int64_t body_begin, int64_t body_end, FimCut cut,
                               FimTokens tokens) {
  const int64_t prefix_end = body_begin + cut.prefix_end;
  const int64_t suffix_begin = body_begin + cut.suffix_begin;
  CACHALOT_CHECK(0 <= body_begin && body_begin <= prefix_end && prefix_end <= suffix_begin &&
                 suffix_begin <= body_end && body_end <= length);
  return {{{.begin = 0, .length = body_begin},
           {.length = 1, .inserted = tokens.begin},
           {.begin = body_begin, .length = prefix_end - body_begin},
           {.length = 1, .inserted = tokens.hole},
           {.begin = suffix_begin, .length = body_end - suffix_begin},
           {.length = 1, .inserted = tokens.end},
           {.begin = prefix_end, .length = suffix_begin - prefix_end},
           {.begin = body_end, .length = length - body_end}}};
}

std::vector<int32_t> encode_fim(const text::Tokenizer& tokenizer, std::string_view text, FimCut cut,
                                FimTokens tokens) {
  CACHALOT_CHECK(0 <= cut.prefix_end && cut.prefix_end <= cut.suffix_begin &&
                 cut.suffix_begin <= static_cast<int64_t>(text.size()));
  std::vector<int32_t> ids;
  const auto append = [&](int32_t control, std::string_view part) {
    const text::Segment segment = {.kind = text::Segment::Kind::text, .text = part};
    const std::vector<int32_t> part_ids = tokenizer.encode_segments(std::span(&segment, 1));
    ids.push_back(control);
    ids.insert(ids.end(), part_ids.begin(), part_ids.end());
  };
  const auto prefix_end = static_cast<size_t>(cut.prefix_end);
  const auto suffix_begin = static_cast<size_t>(cut.suffix_begin);
  append(tokens.begin, text.substr(0, prefix_end));
  append(tokens.hole, text.substr(suffix_begin));
  append(tokens.end, text.substr(prefix_end, suffix_begin - prefix_end));
  return ids;
}

int64_t character_boundary(std::string_view text, int64_t byte) {
  CACHALOT_CHECK(byte >= 0 && byte <= static_cast<int64_t>(text.size()));
  if (byte == static_cast<int64_t>(text.size())) return byte;
  const auto at = [&](int64_t i) { return static_cast<uint8_t>(text[static_cast<size_t>(i)]); };
  // Back over at most three continuation bytes to a lead byte; none there means this is not UTF-8.
  for (int64_t begin = byte; begin >= 0 && byte - begin <= 3; --begin) {
    const uint8_t c = at(begin);
    if ((c & 0xC0) == 0x80) continue;
    const int64_t size = c < 0xC0 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    return begin + size > byte ? begin : byte;
  }
  return byte;
}

Result<std::vector<int32_t>> undo_fim(std::span<const int32_t> ids, FimTokens tokens,
                                      std::optional<int32_t> eos) {
  const int32_t order[] = {tokens.begin, tokens.hole, tokens.end};
  int64_t place[3] = {-1, -1, -1};
  for (size_t i = 0; i < ids.size(); ++i) {
    for (int k = 0; k < 3; ++k) {
      if (ids[i] != order[k]) continue;
      const bool in_order = k == 0 || place[k - 1] >= 0;
      if (place[k] >= 0 || !in_order) {
        return invalid_argument(
            fmt::format("document: token {}: expected one fim_begin, fim_hole and fim_end in this "
                        "order, found {}",
                        i, ids[i]));
      }
      place[k] = static_cast<int64_t>(i);
    }
  }
  if (place[0] < 0) return std::vector<int32_t>(ids.begin(), ids.end());
  if (place[2] < 0) {
    return invalid_argument("document: expected fim_begin, fim_hole and fim_end, found only some");
  }
  const auto begin = ids.begin();
  auto tail = ids.end();
  if (eos) tail = std::find(begin + place[2], ids.end(), *eos);
  std::vector<int32_t> original(begin, begin + place[0]);
  original.insert(original.end(), begin + place[0] + 1, begin + place[1]);
  original.insert(original.end(), begin + place[2] + 1, tail);
  original.insert(original.end(), begin + place[1] + 1, begin + place[2]);
  original.insert(original.end(), tail, ids.end());
  return original;
}

}  // namespace cachalot::data
