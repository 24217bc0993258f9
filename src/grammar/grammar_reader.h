// What the parsers of grammar texts share: their place in the text, errors that name it, and
// escapes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/status.h"
#include "grammar/utf8_reader.h"

namespace cachalot::grammar {

class GrammarReader {
 protected:
  static constexpr int kMaxDepth = 128;          // of groups
  static constexpr int64_t kMaxCount = 100'000;  // of repetitions

  explicit GrammarReader(std::string_view text) : text_(text), in_(text) {}

  // resource_exhausted beyond kMaxGrammarBytes.
  Status check_size() const;
  ptrdiff_t line() const;
  // invalid_argument that names the line, and what stands there.
  Status found(std::string_view expected) const;
  // What a backslash and the text here stand for: \n \r \t \f \xHH \uHHHH \UHHHHHHHH, and those of
  // `themselves`.
  Result<uint32_t> escape(std::string_view themselves);

  std::string_view text_;
  Utf8Reader in_;

 private:
  Result<uint32_t> hex(size_t length);
};

}  // namespace cachalot::grammar
