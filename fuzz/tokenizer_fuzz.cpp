// The input is a tokenizer.json, a NUL byte and a text. The file must load or be refused; a
// tokenizer that loads must give the text's bytes back, stream the same text as it decodes whole,
// and encode every piece as merging defines it. A small tokenizer made here takes the text too, or
// the whole input where there is no NUL.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "text/detokenizer.h"
#include "text/pre_tokenizer.h"
#include "text/tokenizer.h"
#include "text/tokenizer_spec.h"

namespace {

using namespace cachalot;
using namespace cachalot::text;

void check_text(const Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  CACHALOT_CHECK(*tokenizer.decode_bytes(ids) == text);
  Detokenizer detokenizer(tokenizer);
  std::string streamed;
  for (const int32_t id : ids) CACHALOT_CHECK(detokenizer.push(id, streamed).ok());
  detokenizer.finish(streamed);
  CACHALOT_CHECK(streamed == *tokenizer.decode(ids));
  const Segment segments[] = {{Segment::Kind::control, text.substr(0, text.size() / 2)},
                              {Segment::Kind::text, text.substr(text.size() / 2)}};
  CACHALOT_CHECK(*tokenizer.decode_bytes(tokenizer.encode_segments(segments)) == text);
}

void check_pieces(const Bpe& bpe, std::string_view text) {
  const char* const end = text.data() + text.size();
  for (const char* p = text.data(); p != end;) {
    const char* const piece_end = next_piece(p, end);
    const std::string_view piece(p, static_cast<size_t>(piece_end - p));
    std::vector<int32_t> fast, defined;
    bpe.encode_piece(piece, fast);
    bpe.merge(piece, defined);
    CACHALOT_CHECK(fast == defined);
    p = piece_end;
  }
}

// All bytes and a chain of merges over a few of them, so that short inputs reach long tokens.
TokenizerSpec small_spec() {
  TokenizerSpec spec;
  for (int32_t byte = 0; byte < 256; ++byte)
    spec.vocabulary.push_back({byte, std::string(1, static_cast<char>(byte)), false});
  const std::pair<int32_t, int32_t> rules[] = {{'a', 'b'},  {'b', 'a'}, {'a', 'a'}, {256, 'a'},
                                               {258, 258},  {257, 256}, {' ', 256}, {0xE4, 0xB8},
                                               {263, 0xAD}, {264, 264}, {'1', '2'}, {261, 'b'}};
  for (const auto& [left, right] : rules) {
    const auto id = static_cast<int32_t>(spec.vocabulary.size());
    const auto bytes = [&](int32_t i) { return spec.vocabulary[static_cast<size_t>(i)].bytes; };
    spec.vocabulary.push_back({id, bytes(left) + bytes(right), false});
    spec.merges.push_back({left, right, id});
  }
  return spec;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Bpe small = *Bpe::build(small_spec(), "small");
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t nul = input.find('\0');
  const std::string_view text = nul == std::string_view::npos ? input : input.substr(nul + 1);
  check_pieces(small, text);
  if (nul == std::string_view::npos) return 0;
  const auto spec = parse_tokenizer_json(input.substr(0, nul), "input");
  if (spec && !spec->ignore_merges) {
    if (const auto bpe = Bpe::build(*spec, "input")) check_pieces(*bpe, text);
  }
  if (const auto tokenizer = Tokenizer::from_json(input.substr(0, nul), "input"))
    check_text(*tokenizer, text);
  return 0;
}
