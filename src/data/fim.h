// Fill-in-the-middle: a document told in the order prefix, suffix, middle, so that the model learns
// to fill holes.
// Source   reference/training 5.3: fim_begin, prefix, fim_hole, suffix, fim_end, middle, eos; per
//          document, before packing, with probability 0.1.
// Two ways to cut, both uniform over pairs of places: between tokens (the loader, new in every
// epoch) or between characters of the text (tokenize_corpus, once), where a cut may fall inside
// what would have been one token.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "base/status.h"
#include "text/tokenizer.h"

namespace cachalot::data {

struct FimTokens {
  int32_t begin = 0;
  int32_t hole = 0;
  int32_t end = 0;
};

// The tokenizer's own three; not_found names the missing one.
Result<FimTokens> fim_tokens(const text::Tokenizer& tokenizer);

// prefix = [0, prefix_end), middle = [prefix_end, suffix_begin), suffix = the rest. Parts may be
// empty.
struct FimCut {
  int64_t prefix_end = 0;
  int64_t suffix_begin = 0;
};

// With probability `rate` a cut of a document of `length` >= 0 units. Empty documents are never
// cut.
std::optional<FimCut> draw_fim_cut(RngStream rng, int64_t length, double rate);

// A run of a rearranged document: tokens [begin, begin + length) of the original, or one token that
// it did not have.
struct FimRun {
  int64_t begin = 0;
  int64_t length = 0;
  int32_t inserted = -1;  // >= 0: this token, and length is 1
};

// The document [0, length) whose body [body_begin, body_end), what lies between bos and eos, is
// rearranged; the cut counts from body_begin. bos stays first and eos last.
std::array<FimRun, 8> fim_runs(int64_t length, int64_t body_begin, int64_t body_end, FimCut cut,
                               FimTokens tokens);

// Tokens of the text with its three parts rearranged. The cut counts bytes; a text that spells a
// control token stays text.
std::vector<int32_t> encode_fim(const text::Tokenizer& tokenizer, std::string_view text, FimCut cut,
                                FimTokens tokens);

// The nearest place at or below `byte` where no UTF-8 character is split; bytes that are not UTF-8
// may be split anywhere.
int64_t character_boundary(std::string_view text, int64_t byte);

// The original order of ids that hold one fim_begin, fim_hole and fim_end in this order; ids
// without any come back as they are. What follows the middle, from the first `eos` on (if any),
// stays last. Anything else is invalid_argument.
Result<std::vector<int32_t>> undo_fim(std::span<const int32_t> ids, FimTokens tokens,
                                      std::optional<int32_t> eos);

}  // namespace cachalot::data
