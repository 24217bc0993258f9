#include "apps/command_line.h"

#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "base/closest.h"

namespace cachalot::apps {
namespace {

using Apps = std::vector<const CLI::App*>;

Apps commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

// "generate", "data tokenize"; empty of the program itself.
std::string command_name(const CLI::App* command) {
  std::string name;
  for (; command->get_parent() != nullptr; command = command->get_parent())
    name = command->get_name() + (name.empty() ? "" : " ") + name;
  return name;
}

// CLI11's, without empty lists as defaults and with a limited number's type once.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    std::string text = CLI::Formatter::make_option_opts(option);
    for (const auto& [from, to] : {std::pair<std::string_view, std::string_view>{"=[]", ""},
                                   {"INT:INT", "INT"},
                                   {"FLOAT:FLOAT", "FLOAT"}}) {
      if (const size_t at = text.find(from); at != std::string::npos)
        text.replace(at, from.size(), to);
    }
    return text;
  }
};

std::vector<std::string> verb_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* one : commands_of(app)) names.push_back(one->get_name());
  return names;
}

std::string unknown_text(const CLI::App& command, const std::string& unknown) {
  const std::vector<std::string> verbs = verb_names(command);
  const bool is_verb = !unknown.starts_with("-") && !verbs.empty();
  const std::string near =
      closest(unknown.substr(0, unknown.find('=')), is_verb ? verbs : option_names(command));
  if (!near.empty()) {
    return fmt::format("\"{}\" is no {}; did you mean {}?", unknown, is_verb ? "verb" : "option",
                       near);
  }
  return fmt::format("expected {}, found \"{}\"",
                     is_verb ? fmt::format("one of {}", fmt::join(verbs, ", "))
                             : "an option or a value that it takes",
                     unknown);
}

// CLI11's "Could not convert: --top-k = many", in our words.
std::string conversion_text(const CLI::App& command, const std::string& what) {
  constexpr std::string_view kBegin = "Could not convert: ", kBetween = " = ";
  const size_t between = what.find(kBetween);
  if (!what.starts_with(kBegin) || between == std::string::npos) return {};
  const std::string name = what.substr(kBegin.size(), between - kBegin.size());
  const CLI::Option* option = command.get_option_no_throw(name);
  if (option == nullptr) return {};
  const bool is_real = option->get_type_name().find("FLOAT") != std::string::npos;
  return fmt::format("{}: expected {}, found \"{}\"", name, is_real ? "a number" : "an integer",
                     what.substr(between + kBetween.size()));
}

}  // namespace

void set_help_style(CLI::App& app) {
  app.formatter(std::make_shared<HelpFormatter>());
  app.option_defaults()->always_capture_default();
}

void set_example(CLI::App* command, const std::string& arguments) {
  command->footer("Example: cachalot " + arguments);
}

CLI::Validator at_least(int64_t least) {
  const std::string expected = fmt::format("at least {}", least);
  return CLI::Validator(
      [least, expected](const std::string& text) {
        int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error == std::errc() && end == text.data() + text.size() && value >= least)
          return std::string();
        return fmt::format("expected {}, found \"{}\"", expected, text);
      },
      expected, "");
}

CLI::Validator choice(std::map<std::string, int64_t> values) {
  std::vector<std::string> names;
  for (const auto& [name, value] : values) names.push_back(name);
  return CLI::Validator(
      [values, expected = fmt::format("{}", fmt::join(names, " or "))](std::string& text) {
        const auto found = values.find(text);
        if (found == values.end()) return fmt::format("expected {}, found \"{}\"", expected, text);
        text = std::to_string(found->second);
        return std::string();
      },
      fmt::format("{}", fmt::join(names, "|")), "");
}

std::vector<const char*> with_help_verb(int argc, const char* const* argv) {
  std::vector<const char*> words(argv, argv + argc);
  if (argc > 1 && std::string_view(argv[1]) == "help") {
    words.erase(words.begin() + 1);
    words.push_back("--help");
  }
  return words;
}

std::string parse_error_text(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().back();
  const std::vector<std::string> unknown = app.remaining(true);
  const std::string name = command_name(command);
  std::string text;
  if (!unknown.empty() && !command->get_allow_extras()) {
    text = unknown_text(*command, unknown.front());
  } else if (const std::vector<std::string> verbs = verb_names(*command); !verbs.empty()) {
    text = fmt::format("expected one of {}, found none", fmt::join(verbs, ", "));
  }
  if (text.empty()) {
    text = conversion_text(*command, error.what());
    if (text.empty()) text = error.what();
  } else if (!name.empty()) {
    text.insert(0, name + ": ");
  }
  return fmt::format("{} (cachalot {}--help tells more)", text, name.empty() ? name : name + " ");
}

}  // namespace cachalot::apps
