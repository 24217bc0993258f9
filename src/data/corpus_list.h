// PREFIX.json, the list of a corpus's shards that tokenize_corpus writes last:
// {"format": "cachalot-corpus", "version": 1, "tokenizer": "16 hex digits", "num_documents",
// "num_tokens", "text_bytes",
//  "shards": [{"file", "num_documents", "num_tokens", "fingerprint": "16 hex digits"}]}
#pragma once

#include <string>
#include <vector>

#include "base/status.h"
#include "data/tokenize_corpus.h"

namespace cachalot::data {

std::string corpus_list_json(const CorpusSummary& summary, uint64_t tokenizer);

// Any text is safe to give. A shard's file must be a plain name: a path or `..` is refused.
Result<std::vector<CorpusShard>> read_corpus_list(const std::string& path);

std::string file_name(const std::string& path);
// The file of this name in the folder of `path`.
std::string beside(const std::string& path, const std::string& name);

}  // namespace cachalot::data
