// The input is a JSON schema. It must be refused in words, or give a grammar whose texts are JSON.
#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "grammar/json_schema.h"
#include "grammar_walk.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cachalot;
  using namespace cachalot::grammar;
  const auto schema =
      parse_json(std::string_view(reinterpret_cast<const char*>(data), size), "schema");
  if (!schema) return 0;
  const auto source = json_schema_grammar(*schema);
  if (!source) {
    CACHALOT_CHECK(!source.error().message().empty());
    return 0;
  }
  for (const std::string& text : random_texts(*source)) {
    const auto value = parse_json(text, "text", 128);
    CACHALOT_CHECK_MSG(value.has_value(), text);
  }
  return 0;
}
