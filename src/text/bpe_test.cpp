#include "text/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace cachalot::text {
namespace {

constexpr std::string_view kOrigin = "test";

// The 256 bytes, ids 0 to 255.
TokenizerSpec byte_spec() {
  TokenizerSpec spec;
  for (int32_t byte = 0; byte < 256; ++byte)
    spec.vocabulary.push_back({byte, std::string(1, static_cast<char>(byte)), false});
  return spec;
}

void add_rule(TokenizerSpec& spec, int32_t left, int32_t right) {
  const std::string bytes = spec.vocabulary[static_cast<size_t>(left)].bytes +
                            spec.vocabulary[static_cast<size_t>(right)].bytes;
  auto product = static_cast<int32_t>(spec.vocabulary.size());
  for (const VocabularyEntry& entry : spec.vocabulary) {
    if (entry.bytes == bytes) product = entry.id;
  }
  if (product == static_cast<int32_t>(spec.vocabulary.size()))
    spec.vocabulary.push_back({product, bytes, false});
  spec.merges.push_back({left, right, product});
}

// Written from the definition alone: the whole list of symbols is searched before every merge.
std::vector<int32_t> defined_encoding(const TokenizerSpec& spec, std::string_view piece) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t rank = 0; rank < spec.merges.size(); ++rank)
    ranks[{spec.merges[rank].left, spec.merges[rank].right}] = rank;
  std::vector<int32_t> symbols;
  for (const char c : piece) symbols.push_back(static_cast<unsigned char>(c));
  for (;;) {
    size_t best = SIZE_MAX, at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = ranks.find({symbols[i], symbols[i + 1]});
      if (it != ranks.end() && it->second < best) {
        best = it->second;
        at = i;
      }
    }
    if (best == SIZE_MAX) return symbols;
    symbols[at] = spec.merges[best].product;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

class Random {
 public:
  explicit Random(uint32_t seed) : state_(seed * 2654435761u + 1) {}
  uint32_t below(uint32_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33) % n;
  }

 private:
  uint64_t state_;
};

// Rules over the letters a, b, c. `proper`: each makes a new token of tokens that are there; else
// also tokens made twice, and an order in which products come before what they are made of.
TokenizerSpec random_spec(Random& random, bool proper) {
  TokenizerSpec spec = byte_spec();
  std::vector<int32_t> usable = {'a', 'b', 'c'};
  std::set<std::pair<int32_t, int32_t>> seen;
  for (uint32_t i = 0, count = 3 + random.below(30); i < count; ++i) {
    const int32_t left = usable[random.below(static_cast<uint32_t>(usable.size()))];
    const int32_t right = usable[random.below(static_cast<uint32_t>(usable.size()))];
    if (!seen.insert({left, right}).second) continue;
    const size_t before = spec.vocabulary.size();
    add_rule(spec, left, right);
    if (spec.vocabulary.size() > before) {
      usable.push_back(spec.merges.back().product);
    } else if (proper) {
      spec.merges.pop_back();
    }
  }
  if (!proper) {
    for (size_t i = spec.merges.size(); i > 1; --i)
      std::swap(spec.merges[i - 1], spec.merges[random.below(static_cast<uint32_t>(i))]);
  }
  return spec;
}

std::vector<int32_t> encoded(const Bpe& bpe, std::string_view piece) {
  std::vector<int32_t> ids;
  bpe.encode_piece(piece, ids);
  return ids;
}

std::vector<int32_t> merged(const Bpe& bpe, std::string_view piece) {
  std::vector<int32_t> ids;
  bpe.merge(piece, ids);
  return ids;
}

void expect_definition(const TokenizerSpec& spec, const Bpe& bpe, Random& random) {
  for (int i = 0; i < 60; ++i) {
    std::string piece;
    const uint32_t letters = 1 + random.below(3);
    const uint32_t length =
        1 + random.below(i % 10 == 0 ? 300 : 24);  // above and below the switch to the heap
    for (uint32_t k = 0; k < length; ++k) piece += static_cast<char>('a' + random.below(letters));
    const std::vector<int32_t> expected = defined_encoding(spec, piece);
    ASSERT_EQ(merged(bpe, piece), expected) << piece;
    ASSERT_EQ(encoded(bpe, piece), expected) << piece;
  }
}

TEST(Bpe, ProperMergeListsAreEncodedLinearlyAndAsDefined) {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    Random random(seed);
    const TokenizerSpec spec = random_spec(random, true);
    const Result<Bpe> bpe = Bpe::build(spec, kOrigin);
    ASSERT_TRUE(bpe) << bpe.error().to_string();
    ASSERT_TRUE(bpe->is_linear());
    expect_definition(spec, *bpe, random);
    if (HasFatalFailure()) FAIL() << "seed " << seed;
  }
}

TEST(Bpe, OtherMergeListsAreEncodedAsDefined) {
  int num_merging = 0;
  for (uint32_t seed = 0; seed < 400; ++seed) {
    Random random(seed);
    const TokenizerSpec spec = random_spec(random, false);
    const Result<Bpe> bpe = Bpe::build(spec, kOrigin);
    ASSERT_TRUE(bpe) << bpe.error().to_string();
    num_merging += !bpe->is_linear();
    expect_definition(spec, *bpe, random);
    if (HasFatalFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_GT(num_merging, 200);
}

TEST(Bpe, LeftmostOfEqualRanksMergesFirst) {
  TokenizerSpec spec = byte_spec();
  add_rule(spec, 'a', 'a');
  const Result<Bpe> bpe = Bpe::build(spec, kOrigin);
  ASSERT_TRUE(bpe);
  EXPECT_EQ(encoded(*bpe, "aaa"), (std::vector<int32_t>{256, 'a'}));
  EXPECT_EQ(merged(*bpe, "aaaaa"), (std::vector<int32_t>{256, 256, 'a'}));
}

TEST(Bpe, ATokenThatMergingDoesNotReachIsNoShortCut) {
  TokenizerSpec spec = byte_spec();
  add_rule(spec, 'b', 'c');  // 256, first
  add_rule(spec, 'a', 'b');  // 257
  add_rule(spec, 257, 'c');  // 258 "abc" is never reached: "bc" merges before "ab"
  spec.vocabulary.push_back({259, "xyz", false});  // no rule at all
  Result<Bpe> bpe = Bpe::build(spec, kOrigin);
  ASSERT_TRUE(bpe);
  EXPECT_EQ(encoded(*bpe, "abc"), (std::vector<int32_t>{'a', 256}));
  EXPECT_EQ(encoded(*bpe, "xyz"), (std::vector<int32_t>{'x', 'y', 'z'}));
  EXPECT_EQ(bpe->tokens().find("abc"), kNoToken);

  spec.ignore_merges = true;  // a whole piece is looked up first, parts of a piece are not
  bpe = Bpe::build(spec, kOrigin);
  ASSERT_TRUE(bpe);
  EXPECT_EQ(encoded(*bpe, "abc"), (std::vector<int32_t>{258}));
  EXPECT_EQ(encoded(*bpe, "xyz"), (std::vector<int32_t>{259}));
  EXPECT_EQ(encoded(*bpe, "xyzx"), (std::vector<int32_t>{'x', 'y', 'z', 'x'}));
  EXPECT_EQ(encoded(*bpe, "abca"), (std::vector<int32_t>{'a', 256, 'a'}));
}

// Look-ups differ by length: up to 8 bytes, hashed, and 63 and more for prefixes.
TEST(Bpe, TokensOfEveryLengthAreFound) {
  TokenizerSpec spec = byte_spec();
  int32_t last = 'q';
  for (int i = 2; i <= 150; ++i) {
    add_rule(spec, last, "abcdefg"[i % 7]);
    last = spec.merges.back().product;
  }
  const Result<Bpe> bpe = Bpe::build(spec, kOrigin);
  ASSERT_TRUE(bpe && bpe->is_linear());
  const std::string longest = spec.vocabulary.back().bytes;
  ASSERT_EQ(longest.size(), 150u);
  for (size_t n = 1; n <= longest.size(); ++n) {
    const std::string prefix = longest.substr(0, n);
    const int32_t id = n == 1 ? 'q' : static_cast<int32_t>(254 + n);
    EXPECT_EQ(encoded(*bpe, prefix), std::vector<int32_t>{id});
    EXPECT_EQ(encoded(*bpe, prefix + "~"), (std::vector<int32_t>{id, '~'}));
    EXPECT_EQ(encoded(*bpe, "~" + prefix), (std::vector<int32_t>{'~', id}));
  }
}

TEST(Bpe, IdsMayHaveGaps) {
  TokenizerSpec spec = byte_spec();
  spec.vocabulary.push_back({1000, "ab", false});
  spec.merges.push_back({'a', 'b', 1000});
  const Result<Bpe> bpe = Bpe::build(spec, kOrigin);
  ASSERT_TRUE(bpe);
  EXPECT_EQ(bpe->tokens().num_ids(), 1001u);
  EXPECT_TRUE(bpe->tokens().bytes(999).empty());
  EXPECT_EQ(encoded(*bpe, "cab"), (std::vector<int32_t>{'c', 1000}));
}

TEST(Bpe, RefusesVocabulariesThatContradictThemselves) {
  const auto message = [](const TokenizerSpec& spec) {
    return Bpe::build(spec, kOrigin).error().message();
  };
  TokenizerSpec spec = byte_spec();
  spec.vocabulary.push_back({65, "AA", false});
  EXPECT_EQ(message(spec),
            "test: model.vocab: expected one token per id, found id 65 for \"A\" and \"AA\"");
  spec = byte_spec();
  spec.vocabulary.erase(spec.vocabulary.begin() + 7);
  EXPECT_EQ(
      message(spec),
      "test: model.vocab: expected a token for each of the 256 bytes, found none for byte 0x07");
  spec = byte_spec();
  spec.vocabulary[7].literal = true;  // an entry that stands for itself is not a byte
  EXPECT_EQ(
      message(spec),
      "test: model.vocab: expected a token for each of the 256 bytes, found none for byte 0x07");
  spec = byte_spec();
  add_rule(spec, 'a', 'b');
  add_rule(spec, 'a', 'b');
  EXPECT_EQ(message(spec),
            "test: model.merges[1]: expected each pair once, found \"a\" \"b\" again");
}

}  // namespace
}  // namespace cachalot::text
