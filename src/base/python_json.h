// JSON text spelled as Python's json.dumps(value, ensure_ascii=False) spells it. Prompts are
// trained on that spelling (reference/chat 2.7), so every schema and argument that enters a prompt
// goes through here.
//   separators ", " and ": ", no line breaks, non-ASCII kept, keys in their own order;
//   floats as repr() writes them (1.0, 0.001, 1e-05, 1e+16), integers without loss.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot {

std::string python_json(const json::value& value);

// The shortest decimal that reads back as `value`, as Python's repr() lays it out. NaN, Infinity,
// -Infinity as json.dumps writes them.
std::string python_float(double value);

// `text` (UTF-8) with quote, backslash and control characters escaped, without the surrounding
// quotes.
void append_json_escaped(std::string& out, std::string_view text);
std::string json_quoted(std::string_view text);

// One member of a JSON object. A string member holds the decoded string, any other one its Python
// spelling.
struct PythonJsonMember {
  std::string key;
  bool is_string = false;
  std::string text;

  bool operator==(const PythonJsonMember&) const = default;
};

// Parses JSON text whose top level is an object. Unlike a trip through json::value, integers of any
// length keep their digits. A repeated key keeps its first place and its last value. `origin` names
// the text in errors.
Result<std::vector<PythonJsonMember>> parse_python_object(std::string_view text,
                                                          std::string_view origin,
                                                          size_t max_depth = 64);

}  // namespace cachalot
