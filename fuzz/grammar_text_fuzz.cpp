// The input is a grammar in text, in each notation. It must be refused in words, or can be walked.
#include <cstdint>
#include <string_view>

#include "grammar/grammar_text.h"
#include "grammar/lark_text.h"
#include "grammar_walk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cachalot::grammar;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto& source : {parse_grammar_text(text), parse_lark_text(text)}) {
    if (source) {
      random_texts(*source);
    } else {
      CACHALOT_CHECK(!source.error().message().empty());
    }
  }
  return 0;
}
