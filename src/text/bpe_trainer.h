// Learns a byte-level BPE vocabulary from text, cut as V4 cuts it (pre_tokenizer.h), and writes it
// as a tokenizer.json.
// Rule     Again and again the adjacent pair of tokens that stands in the text most often becomes a
//          token; among pairs that stand there equally often the one with the smallest left id,
//          then the smallest right id. No pair that stands there once is merged. It is the rule of
//          PyPI tokenizers' BpeTrainer: tools/compare_bpe_training.py finds the same merges.
// Ids      the first control tokens (begin, end, pad), then the 256 bytes in the order of their
//          spelling, then merges by rank, then the other control tokens of V4, its placeholders
//          left out. All are found by name, as in the real vocabulary.
// Numerics  a function of the multiset of documents alone: neither their order nor threads enter.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/status.h"
#include "text/tokenizer_spec.h"

namespace cachalot::text {

class BpeTrainer {
 public:
  // A document's pieces count. Any bytes. Memory: the distinct pieces.
  void add(std::string_view document);

  // vocab_size: all ids, control tokens and bytes included. least_count > 0: no pair that stands
  // there less often is merged, and the vocabulary is as small as that makes it.
  // Errors  invalid_argument: fewer than control tokens and bytes need (expected, found); with
  //         least_count 0, text that runs out of pairs before.
  Result<TokenizerSpec> train(int64_t vocab_size, int64_t least_count = 0) const;

  int64_t num_pieces() const { return static_cast<int64_t>(pieces_.size()); }

 private:
  std::unordered_map<std::string, int64_t> pieces_;
};

// As Hugging Face's tokenizers and Tokenizer::load read it.
std::string tokenizer_json(const TokenizerSpec& spec);

}  // namespace cachalot::text
