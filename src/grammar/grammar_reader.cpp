#include "grammar/grammar_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "grammar/expression.h"
#include "grammar/grammar_text.h"

namespace cachalot::grammar {

Status GrammarReader::check_size() const {
  if (text_.size() <= kMaxGrammarBytes) return {};
  return resource_exhausted(
      fmt::format("grammar: expected at most {} bytes, found {}", kMaxGrammarBytes, text_.size()));
}

ptrdiff_t GrammarReader::line() const {
  return 1 + std::count(text_.begin(), text_.begin() + static_cast<ptrdiff_t>(in_.at()), '\n');
}

Status GrammarReader::found(std::string_view expected) const {
  std::string what = "the end";
  if (!in_.at_end()) {
    const auto c = static_cast<unsigned char>(in_.peek());
    what =
        c > 0x20 && c < 0x7F ? fmt::format("\"{}\"", in_.peek()) : fmt::format("byte 0x{:02x}", c);
  }
  return invalid_argument(
      fmt::format("grammar, line {}: expected {}, found {}", line(), expected, what));
}

Result<uint32_t> GrammarReader::escape(std::string_view themselves) {
  const char c = in_.peek();
  in_.skip(in_.at_end() ? 0 : 1);
  switch (c) {
    case 'n': return uint32_t{'\n'};
    case 'r': return uint32_t{'\r'};
    case 't': return uint32_t{'\t'};
    case 'f': return uint32_t{'\f'};
    case 'x': return hex(2);
    case 'u': return hex(4);
    case 'U': return hex(8);
    default: break;
  }
  if (themselves.find(c) != std::string_view::npos) return static_cast<uint32_t>(c);
  return found("an escape that is known before this");
}

Result<uint32_t> GrammarReader::hex(size_t length) {
  uint32_t value = 0;
  const std::string_view digits = in_.rest().substr(0, length);
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
  if (error != std::errc() || end != digits.data() + length || value > kMaxCodePoint)
    return found(fmt::format("{} hexadecimal digits of a code point", length));
  in_.skip(length);
  return value;
}

}  // namespace cachalot::grammar
