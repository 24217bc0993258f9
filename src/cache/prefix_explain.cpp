#include "cache/prefix_explain.h"

#include <fmt/format.h>

#include <algorithm>

namespace cachalot::cache {
namespace {

std::span<const int32_t> block_of(std::span<const int32_t> tokens, int64_t idx, int64_t size) {
  return tokens.subspan(static_cast<size_t>(idx * size), static_cast<size_t>(size));
}

// What differs between two identities, as words.
std::string difference(const CacheIdentity& wanted, const CacheIdentity& kept) {
  std::string text;
  const auto compare = [&](const char* name, auto expected, auto found) {
    if (expected == found) return;
    text += fmt::format("{}{}: expected {:x}, found {:x}", text.empty() ? "" : "; ", name, expected,
                        found);
  };
  compare("weights, configuration and precision", wanted.fingerprint, kept.fingerprint);
  compare("cache layout", wanted.layout_hash, kept.layout_hash);
  compare("weights version", wanted.weights_version, kept.weights_version);
  compare("position base", wanted.position_base, kept.position_base);
  return text;
}

// Nothing begins as the text does: perhaps something does for another model.
Result<std::string> why_nothing(DiskStore& store, const CacheIdentity& identity,
                                std::span<const int32_t> first_block) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<IndexSummary> kept, store.summary());
  if (kept.empty()) return std::string("nothing is kept");
  for (const IndexSummary& other : kept) {
    const BlockKey key = next_key(root_key(other.identity), first_block);
    if (!(other.identity == identity) && store.find(key, RecordKind::block)) {
      return "this text is kept with other rows: " + difference(identity, other.identity);
    }
  }
  const bool has_own = std::any_of(kept.begin(), kept.end(), [&](const IndexSummary& other) {
    return other.identity == identity;
  });
  return std::string(has_own ? "" : "nothing is kept of this model at this precision");
}

// How the kept texts go on that come nearest to the block.
Result<std::string> why_no_further(DiskStore& store, const BlockKey& parent, int64_t first_position,
                                   std::span<const int32_t> block) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<IndexedRecord> children, store.children(parent));
  size_t most = 0;
  std::string why = fmt::format("no kept text goes on behind token {}", first_position);
  for (const IndexedRecord& child : children) {
    const Result<RecordHeader> header = store.read_header(child.place);
    if (!header || header->tokens.size() != block.size()) continue;
    const auto parting = std::mismatch(block.begin(), block.end(), header->tokens.begin());
    const auto common = static_cast<size_t>(parting.first - block.begin());
    if (common == block.size() || (common <= most && most > 0)) continue;
    most = common;
    why =
        fmt::format("the nearest kept text parts from it at token {}: expected id {}, found {}",
                    first_position + static_cast<int64_t>(common), *parting.first, *parting.second);
  }
  return why;
}

}  // namespace

Result<PrefixExplanation> explain_prefix(DiskStore& store, const CacheIdentity& identity,
                                         int64_t block_tokens, std::span<const int32_t> tokens) {
  while (store.is_recovering()) CACHALOT_RETURN_IF_ERROR(store.recover(1000));
  PrefixExplanation explanation;
  BlockKey parent = root_key(identity);
  const int64_t num_blocks = static_cast<int64_t>(tokens.size()) / block_tokens;
  for (int64_t i = 0; i < num_blocks; ++i) {
    const std::span<const int32_t> block = block_of(tokens, i, block_tokens);
    const BlockKey key = next_key(parent, block);
    if (!store.find(key, RecordKind::block)) {
      if (i == 0) {
        CACHALOT_ASSIGN_OR_RETURN(explanation.why, why_nothing(store, identity, block));
      }
      if (explanation.why.empty()) {
        CACHALOT_ASSIGN_OR_RETURN(explanation.why,
                                  why_no_further(store, parent, i * block_tokens, block));
      }
      return explanation;
    }
    parent = key;
    explanation.kept_tokens += block_tokens;
    if (store.find(key, RecordKind::state)) explanation.state_tokens = explanation.kept_tokens;
  }
  explanation.why = fmt::format("every whole block of {} tokens is kept", block_tokens);
  return explanation;
}

}  // namespace cachalot::cache
