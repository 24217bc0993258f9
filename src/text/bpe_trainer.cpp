#include "text/bpe_trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <queue>
#include <vector>

#include "text/byte_alphabet.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_v4.h"

namespace cachalot::text {
namespace {

constexpr int32_t kFirstControls = 3;  // begin, end, pad
constexpr int64_t kLeastCount = 2;

// Those that a prompt or a corpus can hold: V4's table without what it reserves.
std::vector<AddedToken> control_tokens() {
  std::vector<AddedToken> out;
  for (AddedToken& token : v4_added_tokens()) {
    if (token.content.find("holder") == std::string::npos) out.push_back(std::move(token));
  }
  return out;
}

using Pair = std::pair<int32_t, int32_t>;
struct PairHash {
  size_t operator()(const Pair& p) const {
    return (static_cast<size_t>(p.first) << 32 ^ static_cast<size_t>(p.second)) *
           0x9E3779B97F4A7C15;
  }
};

struct Word {
  std::vector<int32_t> ids;
  int64_t count;
};

class Merger {
 public:
  explicit Merger(std::vector<Word> words) : words_(std::move(words)) {
    for (size_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& ids = words_[w].ids;
      for (size_t i = 0; i + 1 < ids.size(); ++i) change({ids[i], ids[i + 1]}, w, words_[w].count);
    }
    for (const auto& [pair, entry] : pairs_) queue_.push({entry.count, pair});
  }

  // The most frequent pair, or nothing where that stands there fewer times than least_count.
  std::optional<Pair> best(int64_t least_count) {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const int64_t count = pairs_[top.pair].count;
      if (count == top.count) return count < least_count ? std::nullopt : std::optional(top.pair);
      if (count > 0) queue_.push({count, top.pair});  // it has become rarer since it was queued
    }
    return std::nullopt;
  }

  void merge(const Pair& pair, int32_t product) {
    const std::vector<uint32_t> words = std::move(pairs_[pair].words);
    std::vector<Pair> grown;
    for (const uint32_t w : words) merge_in_word(w, pair, product, grown);
    pairs_.erase(pair);
    std::sort(grown.begin(), grown.end());
    grown.erase(std::unique(grown.begin(), grown.end()), grown.end());
    for (const Pair& p : grown) queue_.push({pairs_[p].count, p});
  }

 private:
  struct Entry {
    int64_t count = 0;
    std::vector<uint32_t> words;  // where it stands or stood, ascending runs
  };
  struct Candidate {
    int64_t count;
    Pair pair;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  void change(const Pair& pair, size_t word, int64_t by) {
    Entry& entry = pairs_[pair];
    entry.count += by;
    if (by > 0 && (entry.words.empty() || entry.words.back() != word))
      entry.words.push_back(static_cast<uint32_t>(word));
  }

  // Replaces the pair from left to right; the pairs of the word are counted anew.
  void merge_in_word(uint32_t w, const Pair& pair, int32_t product, std::vector<Pair>& grown) {
    Word& word = words_[w];
    std::vector<int32_t>& ids = word.ids;
    bool stands = false;
    for (size_t i = 0; i + 1 < ids.size() && !stands; ++i)
      stands = ids[i] == pair.first && ids[i + 1] == pair.second;
    if (!stands) return;
    for (size_t i = 0; i + 1 < ids.size(); ++i) change({ids[i], ids[i + 1]}, w, -word.count);
    size_t out = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool here = i + 1 < ids.size() && ids[i] == pair.first && ids[i + 1] == pair.second;
      ids[out++] = here ? product : ids[i];
      i += here ? 1 : 0;
    }
    ids.resize(out);
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const Pair p{ids[i], ids[i + 1]};
      change(p, w, word.count);
      if (p.first == product || p.second == product) grown.push_back(p);
    }
  }

  std::vector<Word> words_;
  std::unordered_map<Pair, Entry, PairHash> pairs_;
  std::priority_queue<Candidate> queue_;
};

}  // namespace

void BpeTrainer::add(std::string_view document) {
  const char* at = document.data();
  const char* const end = at + document.size();
  while (at < end) {
    const char* const next = next_piece(at, end);
    ++pieces_[std::string(at, next)];
    at = next;
  }
}

Result<TokenizerSpec> BpeTrainer::train(int64_t vocab_size, int64_t least_count) const {
  std::vector<AddedToken> controls = control_tokens();
  const auto fixed = static_cast<int64_t>(controls.size()) + 256;
  if (vocab_size < fixed || vocab_size > kMaxTokenId) {
    return invalid_argument(
        fmt::format("vocab_size: expected {} (control tokens and bytes) to {}, found {}", fixed,
                    kMaxTokenId, vocab_size));
  }
  TokenizerSpec spec;
  std::array<int32_t, 256> byte_ids{};
  for (const uint8_t byte : ByteAlphabet().in_order()) {
    byte_ids[byte] = kFirstControls + static_cast<int32_t>(spec.vocabulary.size());
    spec.vocabulary.push_back({byte_ids[byte], std::string(1, static_cast<char>(byte)), false});
  }
  // In the order of their bytes, so that nothing depends on the hash table's.
  std::vector<std::pair<std::string_view, int64_t>> pieces(pieces_.begin(), pieces_.end());
  std::sort(pieces.begin(), pieces.end());
  std::vector<Word> words;
  for (const auto& [piece, count] : pieces) {
    Word& word = words.emplace_back(Word{{}, count});
    for (const char c : piece) word.ids.push_back(byte_ids[static_cast<uint8_t>(c)]);
  }
  Merger merger(std::move(words));
  std::unordered_map<std::string, int32_t> ids;  // of what merges have made
  for (int64_t left = vocab_size - fixed; left > 0;) {
    const std::optional<Pair> pair = merger.best(std::max(least_count, kLeastCount));
    if (!pair && least_count > 0) {
      vocab_size -= left;
      break;
    }
    if (!pair) {
      return invalid_argument(
          fmt::format("vocab_size: expected at most {}, for which the text has pairs, found {}",
                      vocab_size - left, vocab_size));
    }
    const auto bytes_of = [&](int32_t id) { return spec.vocabulary[id - kFirstControls].bytes; };
    std::string bytes = bytes_of(pair->first) + bytes_of(pair->second);
    const int32_t next = kFirstControls + static_cast<int32_t>(spec.vocabulary.size());
    const auto [made, is_new] = ids.emplace(std::move(bytes), next);
    const int32_t product = made->second;
    if (is_new) {
      spec.vocabulary.push_back({product, made->first, false});
      --left;
    }
    spec.merges.push_back({pair->first, pair->second, product});
    merger.merge(*pair, product);
  }
  for (size_t i = 0; i < controls.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    controls[i].id = static_cast<int32_t>(
        at < kFirstControls ? at : vocab_size - static_cast<int64_t>(controls.size()) + at);
    if (at < kFirstControls) spec.vocabulary.push_back({controls[i].id, controls[i].content, true});
  }
  spec.added_tokens = std::move(controls);
  return spec;
}

}  // namespace cachalot::text
