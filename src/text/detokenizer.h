// Text from a stream of tokens, whole characters only (reference/chat 1.5).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>

#include "base/status.h"
#include "text/tokenizer.h"

namespace cachalot::text {

// Bytes in, valid UTF-8 out. Holds back at most 3 bytes, those of a character that has begun. What
// can never become valid is replaced by U+FFFD, one for each maximal part of a character (Unicode
// 16.0, section 3.9, as Rust and browsers do), so that the text does not depend on how the bytes
// were cut.
class Utf8Stream {
 public:
  // Appends to `out` what is certain now.
  void push(std::string_view bytes, std::string& out);
  // Ends the text: a character that has begun becomes U+FFFD. The stream may be used again.
  void finish(std::string& out);

  // The bytes held back.
  std::string_view pending() const { return {held_.data(), size_}; }

 private:
  bool extends(unsigned char byte) const;

  std::array<char, 4> held_{};
  uint8_t size_ = 0;
  uint8_t length_ = 0;  // of the character that has begun, by its first byte
};

// Borrows the tokenizer.
class Detokenizer {
 public:
  // hidden: control tokens, those spelled <｜...｜> or <|...|>, give no text; what a completion's
  // parser reads (<think>, ｜DSML｜) does.
  enum class Controls { shown, hidden };
  explicit Detokenizer(const Tokenizer& tokenizer, Controls controls = Controls::shown);

  // Appends to `out` the text that `id` makes certain, perhaps none. An id that no token has is
  // invalid_argument, and changes nothing.
  Status push(int32_t id, std::string& out);
  void finish(std::string& out) { stream_.finish(out); }

  // The bytes of a character that has begun, which no text returned so far contains.
  std::string_view pending() const { return stream_.pending(); }

 private:
  const Tokenizer* tokenizer_;
  std::unordered_set<int32_t> hidden_;
  Utf8Stream stream_;
};

}  // namespace cachalot::text
