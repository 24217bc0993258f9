// The bundled trained model through the engine, for tests: what it is asked, and what it answers.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/test_data.h"
#include "engine/engine.h"
#include "text/tokenizer.h"

namespace cachalot::engine::testing {

inline std::string nano() { return test_data("../models/nano"); }

inline std::unique_ptr<Engine> make_engine() {
  EngineOptions options;
  options.model = {.path = nano(), .threads = 2};
  options.cache_bytes = int64_t{1} << 26;
  return Engine::create(options).value();
}

inline std::vector<int32_t> encode(const std::string& text) {
  static const text::Tokenizer tokenizer =
      text::Tokenizer::from_json(read_text_file(nano() + "/tokenizer.json").value(), "tokenizer")
          .value();
  std::vector<int32_t> ids = tokenizer.encode(text);
  ids.insert(ids.begin(), 0);
  return ids;
}

// The first `count` tokens of a page of manual, longer than the model's window of 64.
inline std::vector<int32_t> manual_page(int64_t count) {
  const std::string text =
      "NAME\n  copy - copy files and directories\n\nDESCRIPTION\n  Copy the file named by the "
      "first "
      "argument to the place named by the second. If the second argument is a directory, the file "
      "is copied into it under its own name. The following options are available:\n\n  -f  Do not "
      "ask before an existing file is replaced.\n  -i  Ask before an existing file is replaced.\n "
      " -p  Keep the times and the mode of the file.\n  -r  Copy directories and all that they "
      "hold.\n  -v  Print the name of every file before it is copied.\n\nEXIT STATUS\n  The exit "
      "status is 0 if all files were copied, and 1 if an error occurred.\n\nOPTIONS\n";
  std::vector<int32_t> ids = encode(text);
  EXPECT_GE(static_cast<int64_t>(ids.size()), count);
  ids.resize(static_cast<size_t>(count));
  return ids;
}

}  // namespace cachalot::engine::testing
