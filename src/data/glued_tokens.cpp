#include "data/glued_tokens.h"

#include <string_view>

namespace cachalot::data {
namespace {

// Where the line breaks begin, or 0 if the bytes are no glued token.
size_t stem_size(std::string_view bytes) {
  const size_t last = bytes.find_last_not_of("\r\n");
  if (last == std::string_view::npos || last + 1 == bytes.size()) return 0;
  if (bytes[last] == ' ' || bytes[last] == '\t') return 0;
  for (const char c : bytes.substr(0, last + 1)) {
    const bool is_word = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (is_word) return 0;
  }
  return last + 1;
}
}  // namespace

GluedTokens::GluedTokens(const text::Tokenizer& tokenizer) {
  std::vector<bool> is_added(static_cast<size_t>(tokenizer.vocab_size()), false);
  for (const text::AddedToken& token : tokenizer.added_tokens()) {
    if (token.id < tokenizer.vocab_size()) is_added[static_cast<size_t>(token.id)] = true;
  }
  const auto append = [&](std::string_view part) {
    const text::Segment segment = {.kind = text::Segment::Kind::text, .text = part};
    const std::vector<int32_t> ids = tokenizer.encode_segments(std::span(&segment, 1));
    parts_.insert(parts_.end(), ids.begin(), ids.end());
  };
  first_part_.push_back(0);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    // Ids without a token are holes of the vocabulary.
    const auto bytes = tokenizer.token_bytes(id);
    const size_t stem = bytes && !is_added[static_cast<size_t>(id)] ? stem_size(*bytes) : 0;
    if (stem > 0) {
      append(bytes->substr(0, stem));
      append(bytes->substr(stem));
      ++num_glued_;
    }
    first_part_.push_back(static_cast<int32_t>(parts_.size()));
  }
}

std::vector<int32_t> GluedTokens::split(std::span<const int32_t> ids, double rate,
                                        RngStream rng) const {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const int32_t id : ids) {
    if (is_glued(id) && rng.next_unit() < rate) {
      const auto at = static_cast<size_t>(id);
      out.insert(out.end(), parts_.begin() + first_part_[at], parts_.begin() + first_part_[at + 1]);
    } else {
      out.push_back(id);
    }
  }
  return out;
}

}  // namespace cachalot::data
