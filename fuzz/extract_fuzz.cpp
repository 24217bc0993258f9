// libFuzzer target: text out of files of other people's packages. Any bytes give some text, which
// clean_text makes UTF-8 of lines that passing it again does not change.
//
// The first byte chooses: 0 HTML, 1 a manual page, 2 what mod2imp prints, 3 plain text.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "data/extract/clean_text.h"
#include "data/extract/html_text.h"
#include "data/extract/roff_text.h"
#include "data/extract/sword_text.h"

namespace {
using namespace cachalot::data;

std::string extracted(int kind, std::string_view input) {
  switch (kind) {
    case 0: return strip_pre_marks(html_text(input));
    case 1: return roff_text(input);
    case 2: return sword_text(input);
    default: return std::string(input);
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string text = clean_text(extracted(data[0] % 4, input));
  CACHALOT_CHECK(utf8_of(text) == text);
  CACHALOT_CHECK(!looks_binary(text));
  CACHALOT_CHECK(clean_text(text) == text);
  return 0;
}
