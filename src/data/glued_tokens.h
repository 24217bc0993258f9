// Tokens that glue punctuation and the line breaks behind it (".\n", ");\n\n"), split at random
// while data is prepared.
// Source   reference/training 5.2: a random fraction is split, so that a prompt that ends in
//          punctuation without its line break is nothing the model has not seen. Ids change, the
//          text never does (5.5, D4).
// Threads  Immutable.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rng.h"
#include "text/tokenizer.h"

namespace cachalot::data {

class GluedTokens {
 public:
  // Looks through the vocabulary: a base token is glued if it is a stem without letters, digits or
  // white space at its end, and then line breaks. It is replaced by the tokens of the stem and
  // those of the breaks.
  explicit GluedTokens(const text::Tokenizer& tokenizer);

  int64_t num_glued() const { return num_glued_; }
  bool is_glued(int32_t id) const {
    const auto at = static_cast<size_t>(id);
    return at + 1 < first_part_.size() && first_part_[at + 1] > first_part_[at];
  }

  // The ids with each glued one split with probability `rate`, drawn in the order of the ids.
  std::vector<int32_t> split(std::span<const int32_t> ids, double rate, RngStream rng) const;

 private:
  std::vector<int32_t> parts_;
  std::vector<int32_t> first_part_;  // by id, and the end; equal where the token is not glued
  int64_t num_glued_ = 0;
};

}  // namespace cachalot::data
