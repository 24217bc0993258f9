// tokenizer.json as hostile input: every error names the file, the field, what was expected and
// what was found.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <functional>
#include <string>

#include "base/json.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"

namespace cachalot::text {
namespace {

std::string symbol(uint32_t byte) {
  static const auto kPlain = [](uint32_t b) {
    return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  uint32_t code_point = byte;
  if (!kPlain(byte)) {
    code_point = 0x100;
    for (uint32_t b = 0; b < byte; ++b) code_point += !kPlain(b);
  }
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

// 256 bytes, two merges (" a", " ab") and one added token.
json::object small_file() {
  json::object vocabulary;
  for (uint32_t byte = 0; byte < 256; ++byte) vocabulary[symbol(byte)] = byte;
  vocabulary["Ġa"] = 256;
  vocabulary["Ġab"] = 257;
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
  json::object file;
  file["added_tokens"] = {{{"id", 300},
                           {"content", "<x>"},
                           {"single_word", false},
                           {"lstrip", false},
                           {"rstrip", false},
                           {"normalized", true},
                           {"special", false}}};
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
  file["post_processor"] = nullptr;
  file["decoder"] = {{"type", "ByteLevel"}};
  file["model"] = {
      {"type", "BPE"}, {"dropout", nullptr}, {"vocab", vocabulary}, {"merges", {"Ġ a", "Ġa b"}}};
  return file;
}

TEST(TokenizerJson, SmallFileLoads) {
  const auto tokenizer = Tokenizer::from_json(json::serialize(small_file()), "t.json");
  ASSERT_TRUE(tokenizer) << tokenizer.error().to_string();
  EXPECT_EQ(tokenizer->encode(" ab<x> a"), (std::vector<int32_t>{257, 300, 256}));
  EXPECT_EQ(tokenizer->vocab_size(), 301);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{300, 257}).value(), "<x> ab");
  EXPECT_EQ(tokenizer->token_bytes(299).error().message(),
            "token id 299: expected one of the vocabulary's, which end at 300");
}

struct Fault {
  std::function<void(json::object&)> apply;
  StatusCode code;
  std::string message;
};

json::object& step(json::object& file, size_t i) {
  return file["pre_tokenizer"].as_object()["pretokenizers"].as_array()[i].as_object();
}
json::object& model(json::object& file) { return file["model"].as_object(); }
json::object& vocabulary(json::object& file) { return model(file)["vocab"].as_object(); }
json::object& added(json::object& file) { return file["added_tokens"].as_array()[0].as_object(); }

void expect_faults(const std::vector<Fault>& faults) {
  for (const Fault& fault : faults) {
    json::object file = small_file();
    fault.apply(file);
    const auto tokenizer = Tokenizer::from_json(json::serialize(file), "t.json");
    ASSERT_FALSE(tokenizer) << fault.message;
    EXPECT_EQ(tokenizer.error().message(), "t.json: " + fault.message);
    EXPECT_EQ(tokenizer.error().code(), fault.code) << fault.message;
  }
}

TEST(TokenizerJson, MalformedFieldsAreNamed) {
  constexpr StatusCode kBad = StatusCode::invalid_argument;
  expect_faults({
      {[](auto& f) { f.erase("model"); }, kBad, "model: expected an object, found null"},
      {[](auto& f) { f["pre_tokenizer"] = "x"; }, kBad,
       "pre_tokenizer: expected an object, found \"x\""},
      {[](auto& f) { f["decoder"] = nullptr; }, kBad, "decoder: expected an object, found null"},
      {[](auto& f) { model(f)["vocab"] = json::array(); }, kBad,
       "model.vocab: expected an object, found array"},
      {[](auto& f) { vocabulary(f)["Ġa"] = "1"; }, kBad,
       "model.vocab.Ġa: expected an id from 0 to 2097150, found \"1\""},
      {[](auto& f) { vocabulary(f)["Ġa"] = -1; }, kBad,
       "model.vocab.Ġa: expected an id from 0 to 2097150, found -1"},
      {[](auto& f) { vocabulary(f)["Ġa"] = 1e300; }, kBad,
       "model.vocab.Ġa: expected an id from 0 to 2097150, found 1e+300"},
      {[](auto& f) { vocabulary(f)["Ġa"] = 4000000000u; }, kBad,
       "model.vocab.Ġa: expected an id from 0 to 2097150, found 4000000000"},
      {[](auto& f) { vocabulary(f)["Ġa"] = 257; }, kBad,
       "model.vocab: expected one token per id, found id 257 for \" a\" and \" ab\""},
      {[](auto& f) { vocabulary(f)[""] = 299; }, kBad,
       "model.vocab: expected tokens of at least one byte, found an empty one"},
      {[](auto& f) { vocabulary(f).erase("A"); }, kBad,
       "model.vocab: expected a token for each of the 256 bytes, found none for byte 0x41"},
      {[](auto& f) { model(f)["merges"] = 3; }, kBad, "model.merges: expected an array, found 3"},
      {[](auto& f) { model(f)["merges"] = json::parse(R"(["Ġa"])"); }, kBad,
       "model.merges[0]: expected two tokens separated by one space, found \"Ġa\""},
      {[](auto& f) { model(f)["merges"] = json::parse(R"(["Ġ a b"])"); }, kBad,
       "model.merges[0]: expected two tokens separated by one space, found \"Ġ a b\""},
      {[](auto& f) { model(f)["merges"] = json::parse(R"([["a"]])"); }, kBad,
       "model.merges[0]: expected \"left right\" or [\"left\", \"right\"], found array"},
      {[](auto& f) { model(f)["merges"] = json::parse(R"(["Ġ zz"])"); }, kBad,
       "model.merges[0]: expected tokens of model.vocab, found \"zz\""},
      {[](auto& f) { model(f)["merges"] = json::parse(R"(["a b"])"); }, kBad,
       "model.merges[0]: expected tokens of model.vocab, found \"ab\""},
      {[](auto& f) {
         model(f)["merges"] = {"Ġ a", "Ġ a"};
       },
       kBad, "model.merges[1]: expected each pair once, found \" \" \"a\" again"},
      {[](auto& f) { added(f)["id"] = 0x200000; }, kBad,
       "added_tokens[0].id: expected an id from 0 to 2097150, found 2097152"},
      {[](auto& f) { added(f)["content"] = ""; }, kBad,
       "added_tokens[0].content: expected 1 to 1024 bytes, found 0"},
      {[](auto& f) { added(f)["content"] = std::string(5000, 'x'); }, kBad,
       "added_tokens[0].content: expected 1 to 1024 bytes, found 5000"},
      {[](auto& f) { added(f)["special"] = 1; }, kBad,
       "added_tokens[0].special: expected true or false, found 1"},
      {[](auto& f) { added(f)["content"] = "A"; }, kBad,
       "added_tokens[0].id: expected 65, the id of this token in model.vocab, found 300"},
      {[](auto& f) { added(f)["id"] = 65; }, kBad,
       "added token id 65: expected one token, found \"A\" and \"<x>\""},
      {[](auto& f) {
         f["added_tokens"].as_array().push_back({{"id", 301}, {"content", "<x>"}});
       },
       kBad, "added token \"<x>\": expected one id, found 300 and 301"},
  });
}

TEST(TokenizerJson, FeaturesOfOtherTokenizersAreRefusedByName) {
  constexpr StatusCode kOther = StatusCode::unsupported;
  expect_faults({
      {[](auto& f) { model(f)["type"] = "Unigram"; }, kOther,
       "model.type: expected \"BPE\", found \"Unigram\""},
      {[](auto& f) { model(f)["dropout"] = 0.1; }, kOther,
       "model.dropout: expected null, found 0.1"},
      {[](auto& f) { model(f)["unk_token"] = "<unk>"; }, kOther,
       "model.unk_token: expected null, found \"<unk>\""},
      {[](auto& f) { model(f)["byte_fallback"] = true; }, kOther,
       "model.byte_fallback: expected false, found true"},
      {[](auto& f) { model(f)["end_of_word_suffix"] = "</w>"; }, kOther,
       "model.end_of_word_suffix: expected null, found \"</w>\""},
      {[](auto& f) {
         f["normalizer"] = {{"type", "NFC"}};
       },
       kOther, "normalizer.type: expected \"Sequence\", found \"NFC\""},
      {[](auto& f) {
         f["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFKC"}}}}};
       },
       kOther,
       "normalizer.normalizers[0].type: expected \"nothing (an empty Sequence)\", found \"NFKC\""},
      {[](auto& f) { step(f, 0)["pattern"].as_object()["Regex"] = "\\d"; }, kOther,
       "pre_tokenizer.pretokenizers[0].pattern.Regex: expected the DeepSeek-V3 pattern "
       "\"\\p{N}{1,3}\", found \"\\d\""},
      {[](auto& f) { step(f, 1)["behavior"] = "Removed"; }, kOther,
       "pre_tokenizer.pretokenizers[1].behavior: expected \"Isolated\", found \"Removed\""},
      {[](auto& f) { step(f, 2)["invert"] = true; }, kOther,
       "pre_tokenizer.pretokenizers[2].invert: expected false, found true"},
      {[](auto& f) { step(f, 3)["use_regex"] = true; }, kOther,
       "pre_tokenizer.pretokenizers[3].use_regex: expected false, found true"},
      {[](auto& f) { step(f, 3).erase("use_regex"); }, kOther,
       "pre_tokenizer.pretokenizers[3].use_regex: expected false, found null"},
      {[](auto& f) { step(f, 3)["add_prefix_space"] = true; }, kOther,
       "pre_tokenizer.pretokenizers[3].add_prefix_space: expected false, found true"},
      {[](auto& f) { f["pre_tokenizer"].as_object()["pretokenizers"].as_array().pop_back(); },
       kOther,
       "pre_tokenizer.pretokenizers: expected the 3 DeepSeek-V3 splits and ByteLevel, found 3 "
       "steps"},
      {[](auto& f) {
         f["post_processor"] = {{"type", "TemplateProcessing"}};
       },
       kOther, "post_processor.type: expected \"ByteLevel\", found \"TemplateProcessing\""},
      {[](auto& f) {
         f["decoder"] = {{"type", "WordPiece"}};
       },
       kOther, "decoder.type: expected \"ByteLevel\", found \"WordPiece\""},
      {[](auto& f) { added(f)["lstrip"] = true; }, kOther,
       "added_tokens[0].lstrip: expected false, found true"},
  });
}

// What another program once cut or filled its batches with is no matter of encoding.
TEST(TokenizerJson, TruncationAndPaddingAreIgnoredAndSaidOnce) {
  json::object file = small_file();
  const auto plain = Tokenizer::from_json(json::serialize(file), "plain.json");
  file["truncation"] = {{"max_length", 2}, {"strategy", "LongestFirst"}, {"stride", 0}};
  file["padding"] = {{"strategy", {{"Fixed", 8}}}, {"pad_id", 0}};
  testing::internal::CaptureStderr();
  for (int i = 0; i < 2; ++i) {
    const auto tokenizer = Tokenizer::from_json(json::serialize(file), "cut.json");
    ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().message();
    EXPECT_EQ(tokenizer->encode("abc abc abc"), plain->encode("abc abc abc"));
  }
  const std::string said = testing::internal::GetCapturedStderr();
  for (const char* name : {"cut.json: truncation", "cut.json: padding"}) {
    EXPECT_NE(said.find(name), std::string::npos) << said;
    EXPECT_EQ(said.find(name), said.rfind(name)) << said;
  }
}

TEST(TokenizerJson, NotJson) {
  EXPECT_FALSE(Tokenizer::from_json("", "t.json"));
  EXPECT_FALSE(Tokenizer::from_json("[]", "t.json"));
  EXPECT_FALSE(Tokenizer::from_json(std::string(100000, '['), "t.json"));
  EXPECT_FALSE(Tokenizer::from_json("{\"model\":\"\xFF\"}", "t.json"));
  const auto missing = Tokenizer::load("/nonexistent/tokenizer.json");
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("/nonexistent/tokenizer.json"), std::string::npos);
}

// A file cut anywhere is an error; one changed anywhere is an error or a tokenizer that still keeps
// its promise.
TEST(TokenizerJson, CutAndChangedFilesNeverCrash) {
  const std::string file = json::serialize(small_file());
  for (size_t n = 0; n < file.size(); n += n % 7 + 1)
    EXPECT_FALSE(Tokenizer::from_json(std::string_view(file).substr(0, n), "t.json"));
  uint64_t state = 3;
  const std::string text = " ab<x>\xFF中 a1";
  for (int round = 0; round < 3000; ++round) {
    std::string changed = file;
    for (int k = 0; k < 2; ++k) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      changed[(state >> 33) % changed.size()] = "0123456789\"{}[],: aĠ-\xFF"[(state >> 20) % 22];
    }
    const auto tokenizer = Tokenizer::from_json(changed, "t.json");
    if (!tokenizer) continue;
    EXPECT_EQ(*tokenizer->decode_bytes(tokenizer->encode(text)), text);
  }
}

}  // namespace
}  // namespace cachalot::text
