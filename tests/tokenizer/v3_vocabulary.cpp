#include "tokenizer/v3_vocabulary.h"

#include <fmt/format.h>
#include <zstd.h>

#include <boost/json/serialize.hpp>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/test_data.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer_v4.h"

namespace cachalot::text {
namespace {

constexpr size_t kNumMerges = 127741;
constexpr int32_t kLastV3Id = 128814;

std::string utf8(uint32_t code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

// Base tokens in the byte alphabet of tokenizer.json, by id.
std::vector<std::string> base_tokens(const std::vector<std::pair<size_t, size_t>>& merges) {
  std::vector<std::string> tokens = {"<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
                                     "<｜▁pad▁｜>"};
  for (uint32_t c = 0x21; c < 0x144; ++c) {
    if (c >= 0x100 || stands_for_itself(c)) tokens.push_back(utf8(c));
  }
  for (const auto& [left, right] : merges) tokens.push_back(tokens.at(left) + tokens.at(right));
  return tokens;
}

std::vector<std::pair<size_t, size_t>> read_merges() {
  const std::string planes = read_zst("v3-merges.bin.zst");
  CACHALOT_CHECK(planes.size() == kNumMerges * 6);
  const auto id = [&](size_t side, size_t i) {
    size_t value = 0;
    for (size_t plane = 0; plane < 3; ++plane) {
      value |= size_t{static_cast<unsigned char>(planes[(side * 3 + plane) * kNumMerges + i])}
               << 8 * plane;
    }
    return value;
  };
  std::vector<std::pair<size_t, size_t>> merges;
  for (size_t i = 0; i < kNumMerges; ++i) merges.emplace_back(id(0, i), id(1, i));
  return merges;
}

json::array pre_tokenizer_steps() {
  json::array steps;
  for (const std::string_view pattern : kSplitPatterns) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", false}});
  return steps;
}

json::array added_tokens() {
  json::array tokens;
  for (const AddedToken& token : v4_added_tokens()) {
    if (token.id > kLastV3Id) continue;
    tokens.push_back({{"id", token.id},
                      {"content", token.content},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", token.special}});
  }
  return tokens;
}

}  // namespace

std::string read_zst(const std::string& name) {
  const std::string packed = *read_text_file(test_data("tokenizer/" + name));
  const unsigned long long size = ZSTD_getFrameContentSize(packed.data(), packed.size());
  CACHALOT_CHECK(size < (1ull << 30));  // an error or an unknown size is larger
  std::string bytes(size, '\0');
  CACHALOT_CHECK(ZSTD_decompress(bytes.data(), size, packed.data(), packed.size()) == size);
  return bytes;
}

std::string v3_tokenizer_json(bool merges_as_pairs) {
  const auto merges = read_merges();
  const std::vector<std::string> tokens = base_tokens(merges);
  json::object vocabulary;
  for (size_t id = 0; id < tokens.size(); ++id) vocabulary.emplace(tokens[id], id);
  json::array rules;
  for (const auto& [left, right] : merges) {
    if (merges_as_pairs) {
      rules.push_back({json::string(tokens[left]), json::string(tokens[right])});
    } else {
      rules.push_back(json::string(tokens[left] + " " + tokens[right]));
    }
  }
  json::object model = {{"type", "BPE"},
                        {"dropout", nullptr},
                        {"unk_token", nullptr},
                        {"byte_fallback", false},
                        {"fuse_unk", false}};
  model["vocab"] = std::move(vocabulary);
  model["merges"] = std::move(rules);
  json::object byte_level = {{"type", "ByteLevel"},
                             {"add_prefix_space", true},
                             {"trim_offsets", true},
                             {"use_regex", true}};
  json::object document = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  document["added_tokens"] = added_tokens();
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  document["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", pre_tokenizer_steps()}};
  document["post_processor"] = byte_level;
  document["decoder"] = byte_level;
  document["model"] = std::move(model);
  return json::serialize(document);
}

Tokenizer v3_tokenizer() { return *Tokenizer::from_json(v3_tokenizer_json(), "v3-tokenizer.json"); }

Tokenizer v4_tokenizer() {
  Tokenizer tokenizer = v3_tokenizer();
  const Status status = tokenizer.add_tokens(v4_added_tokens());
  CACHALOT_CHECK_MSG(status.ok(), status.message());
  return tokenizer;
}

}  // namespace cachalot::text
