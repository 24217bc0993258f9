#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

namespace cachalot::text {
namespace {

// Up to this many bytes, looking for the best pair in an array beats a heap.
constexpr size_t kShortPiece = 96;

std::string quoted_bytes(std::string_view bytes) {
  std::string out = "\"";
  for (const char c : bytes.substr(0, 40)) {
    const auto b = static_cast<unsigned char>(c);
    out += b >= 0x20 && b < 0x7F ? std::string(1, c) : fmt::format("\\x{:02x}", b);
  }
  return out + (bytes.size() > 40 ? "\"..." : "\"");
}

}  // namespace

Result<Bpe> Bpe::build(const TokenizerSpec& spec, std::string_view origin) {
  Bpe bpe;
  CACHALOT_RETURN_IF_ERROR(bpe.add_vocabulary(spec, origin));
  CACHALOT_RETURN_IF_ERROR(bpe.add_merges(spec, origin));
  bpe.add_short_cuts(spec);
  return bpe;
}

Status Bpe::add_vocabulary(const TokenizerSpec& spec, std::string_view origin) {
  std::vector<const VocabularyEntry*> by_id;
  for (const VocabularyEntry& entry : spec.vocabulary) {
    const auto id = static_cast<size_t>(entry.id);
    if (id >= by_id.size()) by_id.resize(id + 1, nullptr);
    if (by_id[id] != nullptr) {
      return invalid_argument(
          fmt::format("{}: model.vocab: expected one token per id, found id {} for {} and {}",
                      origin, entry.id, quoted_bytes(by_id[id]->bytes), quoted_bytes(entry.bytes)));
    }
    by_id[id] = &entry;
  }
  tokens_ = TokenTable(spec.vocabulary.size());
  byte_ids_.fill(kNoRank);
  for (size_t id = 0; id < by_id.size(); ++id) {
    if (by_id[id] != nullptr) {
      const std::string& token = by_id[id]->bytes;
      if (token.size() == 1 && !by_id[id]->literal)
        byte_ids_[static_cast<unsigned char>(token[0])] = static_cast<uint32_t>(id);
    }
    tokens_.append(by_id[id] != nullptr ? std::string_view(by_id[id]->bytes) : std::string_view());
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    if (byte_ids_[byte] == kNoRank) {
      return invalid_argument(
          fmt::format("{}: model.vocab: expected a token for each of the 256 bytes, found none for "
                      "byte 0x{:02x}",
                      origin, byte));
    }
  }
  return {};
}

Status Bpe::add_merges(const TokenizerSpec& spec, std::string_view origin) {
  pairs_ = PairRanks(spec.merges.size(), tokens_.num_ids());
  byte_pair_ranks_.assign(256 * 256, kNoRank);
  products_.reserve(spec.merges.size());
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto [left, right, product] = spec.merges[rank];
    const auto l = static_cast<uint32_t>(left), r = static_cast<uint32_t>(right);
    if (pairs_.find(l, r) != kNoRank) {
      return invalid_argument(
          fmt::format("{}: model.merges[{}]: expected each pair once, found {} {} again", origin,
                      rank, quoted_bytes(tokens_.bytes(l)), quoted_bytes(tokens_.bytes(r))));
    }
    pairs_.insert(l, r, static_cast<uint32_t>(rank));
    products_.push_back(static_cast<uint32_t>(product));
    const std::string_view a = tokens_.bytes(l), b = tokens_.bytes(r);
    if (a.size() == 1 && b.size() == 1) {
      byte_pair_ranks_[static_cast<unsigned char>(a[0]) * 256u + static_cast<unsigned char>(b[0])] =
          static_cast<uint32_t>(rank);
    }
  }
  return {};
}

// The short cuts are exact by construction: only tokens that merging reproduces are entered.
// ignore_merges makes the others whole pieces too, but never parts of one.
void Bpe::add_short_cuts(const TokenizerSpec& spec) {
  std::vector<uint32_t> parts;
  std::vector<int32_t> ids;
  for (const VocabularyEntry& entry : spec.vocabulary) {
    if (entry.literal) continue;
    ids.clear();
    merge(entry.bytes, ids);
    const auto id = static_cast<uint32_t>(entry.id);
    const bool part = ids.size() == 1 && ids[0] == entry.id;
    if (part) parts.push_back(id);
    if (part || spec.ignore_merges) tokens_.enter(id, part);
  }
  linear_ = LinearBpe::build(spec.merges, parts, tokens_);
}

void Bpe::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  if (const uint32_t id = tokens_.find(piece); id != kNoToken) {
    ids.push_back(static_cast<int32_t>(id));
  } else if (linear_) {
    linear_->encode(pairs_, tokens_, piece, ids);
  } else {
    merge(piece, ids);
  }
}

void Bpe::merge(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.size() <= kShortPiece) {
    merge_short(piece, ids);
  } else {
    merge_long(piece, ids);
  }
}

// The best pair is the least of the candidates rank * 128 + position: one vectorised minimum finds
// rank and place, leftmost first.
void Bpe::merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
  constexpr int32_t kNone = INT32_MAX;
  constexpr size_t kStep = 8;
  static_assert(kShortPiece < 128 && kShortPiece % kStep == 0 && kMaxMerges < size_t{1} << 23);
  uint32_t symbols[kShortPiece];
  alignas(32) int32_t candidates[kShortPiece];
  uint8_t next[kShortPiece + 1], previous[kShortPiece + 1];
  const auto n = piece.size();
  const auto byte_at = [&](size_t i) { return static_cast<unsigned char>(piece[i]); };
  const auto candidate = [](uint32_t rank, size_t i) {
    return rank == kNoRank ? kNone : static_cast<int32_t>(rank << 7 | i);
  };
  for (size_t i = 0; i < n; ++i) {
    symbols[i] = byte_ids_[byte_at(i)];
    next[i] = static_cast<uint8_t>(i + 1);
    previous[i + 1] = static_cast<uint8_t>(i);
    candidates[i] =
        i + 1 < n ? candidate(byte_pair_ranks_[byte_at(i) * 256u + byte_at(i + 1)], i) : kNone;
  }
  const size_t padded = (n + kStep - 1) / kStep * kStep;
  std::fill(candidates + n, candidates + padded, kNone);
  for (;;) {
    int32_t best = kNone;
    for (size_t i = 0; i < padded; ++i) best = std::min(best, candidates[i]);
    if (best == kNone) break;
    const size_t at = best & 127;
    const size_t gone = next[at];
    symbols[at] = products_[best >> 7];
    candidates[gone] = kNone;
    const size_t after = next[gone];
    next[at] = static_cast<uint8_t>(after);
    previous[after] = static_cast<uint8_t>(at);
    candidates[at] = after < n ? candidate(pairs_.find(symbols[at], symbols[after]), at) : kNone;
    if (at > 0) {
      const size_t before = previous[at];
      candidates[before] = candidate(pairs_.find(symbols[before], symbols[at]), before);
    }
  }
  for (size_t i = 0; i < n; i = next[i]) ids.push_back(static_cast<int32_t>(symbols[i]));
}

// A heap of (rank, position); an entry is stale once the pair at its position has another rank.
void Bpe::merge_long(std::string_view piece, std::vector<int32_t>& ids) const {
  struct Symbol {
    uint32_t id;
    uint32_t rank;  // of the pair with the next symbol
    uint32_t previous;
    uint32_t next;
  };
  const auto n = static_cast<uint32_t>(piece.size());
  std::vector<Symbol> symbols(n);
  std::vector<uint64_t> heap;
  const auto later = std::greater<uint64_t>();
  const auto byte_at = [&](size_t i) { return static_cast<unsigned char>(piece[i]); };
  for (uint32_t i = 0; i < n; ++i) {
    const uint32_t rank =
        i + 1 < n ? byte_pair_ranks_[byte_at(i) * 256u + byte_at(i + 1)] : kNoRank;
    symbols[i] = {byte_ids_[byte_at(i)], rank, i - 1, i + 1};
    if (rank != kNoRank) heap.push_back(uint64_t{rank} << 32 | i);
  }
  std::make_heap(heap.begin(), heap.end(), later);
  const auto rank_again = [&](uint32_t i) {
    Symbol& symbol = symbols[i];
    symbol.rank = symbol.next < n ? pairs_.find(symbol.id, symbols[symbol.next].id) : kNoRank;
    if (symbol.rank == kNoRank) return;
    heap.push_back(uint64_t{symbol.rank} << 32 | i);
    std::push_heap(heap.begin(), heap.end(), later);
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto at = static_cast<uint32_t>(heap.back());
    heap.pop_back();
    Symbol& symbol = symbols[at];
    if (symbol.rank != rank) continue;
    Symbol& gone = symbols[symbol.next];
    gone.rank = kNoRank;
    symbol.id = products_[rank];
    symbol.next = gone.next;
    if (symbol.next < n) symbols[symbol.next].previous = at;
    rank_again(at);
    if (at > 0) rank_again(symbol.previous);
  }
  for (uint32_t i = 0; i < n; i = symbols[i].next)
    ids.push_back(static_cast<int32_t>(symbols[i].id));
}

}  // namespace cachalot::text
