// What every verb's command line has in common: an example in its help, limits that read as
// sentences, and errors that name what was probably meant.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace cachalot::apps {

// How help texts look, defaults with them; for commands that are added after it.
void set_help_style(CLI::App& app);

// The last line of the command's help; `arguments` follow the program's name.
void set_example(CLI::App* command, const std::string& arguments);

// Whole numbers from `least` on.
CLI::Validator at_least(int64_t least);

// One of these names; the option gets its value. For transform().
CLI::Validator choice(std::map<std::string, int64_t> values);
template <typename Enum>
CLI::Validator choice(const std::map<std::string, Enum>& values) {
  std::map<std::string, int64_t> numbers;
  for (const auto& [name, value] : values) numbers[name] = static_cast<int64_t>(value);
  return choice(std::move(numbers));
}

// "help VERB..." is "VERB... --help".
std::vector<const char*> with_help_verb(int argc, const char* const* argv);

// One line about what the parse has found wrong, with the closest verb or option there is.
std::string parse_error_text(const CLI::App& app, const CLI::ParseError& error);

}  // namespace cachalot::apps
