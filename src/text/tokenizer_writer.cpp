#include <fmt/format.h>

#include <unordered_map>

#include "base/python_json.h"
#include "text/bpe_trainer.h"
#include "text/byte_alphabet.h"
#include "text/pre_tokenizer.h"

namespace cachalot::text {
namespace {

json::object splits() {
  json::array parts;
  for (const std::string_view pattern : kSplitPatterns) {
    parts.push_back(json::object{{"type", "Split"},
                                 {"pattern", json::object{{"Regex", pattern}}},
                                 {"behavior", "Isolated"},
                                 {"invert", false}});
  }
  parts.push_back(json::object{{"type", "ByteLevel"},
                               {"add_prefix_space", false},
                               {"trim_offsets", true},
                               {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
}

json::object byte_level(bool trim_offsets) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", true},
          {"trim_offsets", trim_offsets},
          {"use_regex", true}};
}

json::array added_tokens(const TokenizerSpec& spec) {
  json::array out;
  for (const AddedToken& token : spec.added_tokens) {
    out.push_back(json::object{{"id", token.id},
                               {"content", token.content},
                               {"single_word", false},
                               {"lstrip", false},
                               {"rstrip", false},
                               {"normalized", false},
                               {"special", token.special}});
  }
  return out;
}

json::object model(const TokenizerSpec& spec) {
  const ByteAlphabet alphabet;
  std::unordered_map<int32_t, std::string> symbols;
  json::object vocabulary;
  for (const VocabularyEntry& entry : spec.vocabulary) {
    const std::string spelled = entry.literal ? entry.bytes : alphabet.encode(entry.bytes);
    vocabulary[spelled] = entry.id;
    symbols[entry.id] = spelled;
  }
  json::array merges;
  for (const Merge& merge : spec.merges)
    merges.push_back(json::string(symbols.at(merge.left) + " " + symbols.at(merge.right)));
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", spec.ignore_merges},
          {"vocab", std::move(vocabulary)},
          {"merges", std::move(merges)}};
}

}  // namespace

std::string tokenizer_json(const TokenizerSpec& spec) {
  const json::object out = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens(spec)},
      {"normalizer", json::object{{"type", "Sequence"}, {"normalizers", json::array()}}},
      {"pre_tokenizer", splits()},
      {"post_processor", byte_level(false)},
      {"decoder", byte_level(true)},
      {"model", model(spec)}};
  return python_json(out) + "\n";
}

}  // namespace cachalot::text
