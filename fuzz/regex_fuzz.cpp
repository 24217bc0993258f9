// The input is a regular expression. It must be refused in words, or give a grammar that can be
// walked; what it says of the lengths of its texts must hold.
#include <cstdint>
#include <string_view>

#include "grammar/regex.h"
#include "grammar/utf8_reader.h"
#include "grammar_walk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cachalot::grammar;
  GrammarSource source;
  const RuleId root = source.add_rule("root");
  const auto regex =
      parse_regex(std::string_view(reinterpret_cast<const char*>(data), size), source);
  if (!regex) {
    CACHALOT_CHECK(!regex.error().message().empty());
    return 0;
  }
  source.set_body(root, regex->expression);
  for (const std::string& text : random_texts(source)) {
    int64_t length = 0;
    for (Utf8Reader in(text); !in.at_end(); ++length) CACHALOT_CHECK(in.next().has_value());
    CACHALOT_CHECK(regex->min_length <= length && length <= regex->max_length);
  }
  return 0;
}
