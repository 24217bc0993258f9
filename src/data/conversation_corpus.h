// From files of conversations, a JSON object a line, to shards of weighted samples.
// Bad rows  that are no JSON or no conversation (conversation_samples.h), or have a sample longer
//           than max_tokens, are left out whole, counted and named by file and line; more of them
//           than the share most_bad_rows of all rows are an error. Empty lines are no rows.
// Hold-out  one row of each `1 / hold_out` good ones in a row, chosen by a fixed hash; all samples
//           of a row go one way.
// Files     PREFIX-00000.tokens ..., PREFIX.json and PREFIX-heldout's as tokenize_corpus.h;
//           PREFIX-bad-rows.txt, a reason a line, where there are bad rows. The lists come last.
// Exact     a function of the files, their order, the tokenizer and the options; threads do not
//           enter.
// Memory    8 MB of rows and their samples, and 4 bytes a token of the open shards.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "data/conversation_samples.h"
#include "data/tokenize_corpus.h"

namespace cachalot::data {

struct ConversationCorpusOptions {
  ConversationOptions conversations;
  int64_t max_tokens = 4096;   // of a sample
  double hold_out = 0;         // 0 to 0.5
  double most_bad_rows = 0.1;  // share of all rows; 0: the first is an error
};

struct ConversationCorpus {
  CorpusSummary training;  // its documents are samples
  CorpusSummary held_out;
  int64_t num_rows = 0;
  int64_t num_held_out_rows = 0;
  int64_t num_targets = 0;           // of both
  int64_t num_thinking_samples = 0;  // likewise
  int64_t longest_sample = 0;        // likewise, in tokens
  int64_t num_bad_rows = 0;
  std::vector<std::string> bad_rows;  // the first reasons
};

Result<ConversationCorpus> build_conversation_corpus(const text::Tokenizer& tokenizer,
                                                     std::span<const std::string> files,
                                                     const std::string& prefix,
                                                     const ConversationCorpusOptions& options,
                                                     ThreadPool& threads);

}  // namespace cachalot::data
