#include "text/bpe_linear.h"

namespace cachalot::text {
namespace {

// Positions from which no token continues.
class DeadPositions {
 public:
  explicit DeadPositions(size_t count) {
    if (count > kInline * 64) outside_.assign((count + 63) / 64, 0);
    words_ = outside_.empty() ? inside_ : outside_.data();
  }
  DeadPositions(const DeadPositions&) = delete;
  DeadPositions& operator=(const DeadPositions&) = delete;
  bool contains(size_t i) const { return words_[i / 64] >> (i % 64) & 1; }
  void insert(size_t i) { words_[i / 64] |= uint64_t{1} << (i % 64); }

 private:
  static constexpr size_t kInline = 4;
  uint64_t inside_[kInline] = {};
  std::vector<uint64_t> outside_;
  uint64_t* words_;
};

}  // namespace

std::optional<LinearBpe> LinearBpe::build(std::span<const Merge> merges,
                                          std::span<const uint32_t> parts,
                                          const TokenTable& tokens) {
  LinearBpe bpe;
  bpe.derivations_.resize(tokens.num_ids());
  bpe.shorter_.assign(tokens.num_ids(), kNoToken);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto left = static_cast<uint32_t>(merges[rank].left),
               right = static_cast<uint32_t>(merges[rank].right);
    for (const uint32_t operand : {left, right}) {
      if (bpe.derivations_[operand].due == 0 && tokens.length(operand) != 1) return std::nullopt;
    }
    Derivation& product = bpe.derivations_[static_cast<size_t>(merges[rank].product)];
    if (product.due != 0) return std::nullopt;
    product = {rank + 1, left, right};
  }
  for (const uint32_t id : parts) {
    const std::string_view bytes = tokens.bytes(id);
    bpe.shorter_[id] = tokens.longest_prefix(bytes.substr(0, bytes.size() - 1));
  }
  return bpe;
}

// Undoes the two tokens' merges from the last to the first, looking at the pair of symbols that
// face each other. A rank equal to that of the merge on the left belongs to the same rule on both
// sides; merging goes from the left, so the left one comes first.
bool LinearBpe::stays_apart(const PairRanks& pairs, uint32_t left, uint32_t right) const {
  uint32_t left_merged = kNoRank,
           right_merged = kNoRank;  // when the facing symbols are merged away
  for (;;) {
    const uint32_t rank = pairs.find(left, right);
    if (rank < left_merged && rank <= right_merged) return false;
    const Derivation a = derivations_[left], b = derivations_[right];
    if (a.due == 0 && b.due == 0) return true;
    if (a.due > b.due) {
      left_merged = static_cast<uint32_t>(a.due - 1);
      left = static_cast<uint32_t>(a.right);
    } else {
      right_merged = static_cast<uint32_t>(b.due - 1);
      right = static_cast<uint32_t>(b.left);
    }
  }
}

void LinearBpe::encode(const PairRanks& pairs, const TokenTable& tokens, std::string_view piece,
                       std::vector<int32_t>& ids) const {
  DeadPositions dead(piece.size() + 1);
  const size_t first = ids.size();
  size_t at = 0;
  uint32_t token = tokens.longest_prefix(piece);
  while (at < piece.size()) {
    const uint32_t last = ids.size() == first ? kNoToken : static_cast<uint32_t>(ids.back());
    const auto fits = [&] {
      return !dead.contains(at + tokens.length(token)) &&
             (last == kNoToken || stays_apart(pairs, last, token));
    };
    while (token != kNoToken && !fits()) token = shorter_[token];
    if (token != kNoToken) {
      ids.push_back(static_cast<int32_t>(token));
      at += tokens.length(token);
      token = tokens.longest_prefix(piece.substr(at));
    } else {
      // The encoding of the whole piece exists, so there is a token to take back.
      dead.insert(at);
      ids.pop_back();
      token = last;
      at -= tokens.length(last);
    }
  }
}

}  // namespace cachalot::text
