// Reads the cases of tests/chat for the tests of this folder.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/test_data.h"
#include "text/chat_encoding.h"

namespace cachalot::text {

inline std::string test_file(std::string_view path) {
  auto content = read_text_file(test_data(path));
  CACHALOT_CHECK_MSG(content.has_value(), content.error().message());
  return *std::move(content);
}

inline json::value test_json(std::string_view text) {
  auto value = parse_json(text, "test");
  CACHALOT_CHECK_MSG(value.has_value(), value.error().message());
  return *std::move(value);
}

inline json::value test_json_file(std::string_view path) { return test_json(test_file(path)); }

struct DerivedCase {
  std::string name;
  std::vector<Message> messages;
  EncodeOptions options;
  std::string expected;
};

inline DerivedCase read_derived_case(const json::value& entry) {
  DerivedCase out;
  out.name = entry.at("name").as_string();
  out.options.family = *parse_prompt_family(entry.at("family").as_string());
  out.options.thinking = entry.at("thinking_mode").as_string() == "thinking";
  if (!entry.at("reasoning_effort").is_null()) {
    out.options.effort = *parse_reasoning_effort(entry.at("reasoning_effort").as_string());
  }
  out.options.drop_thinking = entry.at("drop_thinking").as_bool();
  auto parsed = parse_chat_request(entry.at("messages"));
  CACHALOT_CHECK_MSG(parsed.has_value(), parsed.error().message());
  out.messages = std::move(parsed->messages);
  out.expected = entry.at("expected").as_string();
  return out;
}

}  // namespace cachalot::text
