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

std::string unknown_text(const CLI::App& command, const std::string& unknown) {
  const Apps commands = commands_of(command);
  std::vector<std::string> known = option_names(command);
  std::string what = "an option or a value that it takes";
  if (!unknown.starts_with("-") && !commands.empty()) {
    known.clear();
    for (const CLI::App* one : commands) known.push_back(one->get_name());
    what = fmt::format("one of {}", fmt::join(known, ", "));
  }
  const std::string near = closest(unknown.substr(0, unknown.find('=')), known);
  if (!near.empty()) what = fmt::format("\"{}\"?", near);
  const std::string name = command_name(&command);
  return fmt::format("{}expected {}{} found \"{}\"", name.empty() ? name : name + ": ", what,
                     near.empty() ? "," : "", unknown);
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

std::string parse_error_text(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().back();
  const std::vector<std::string> unknown = app.remaining(true);
  std::string text = error.what();
  if (!unknown.empty() && !command->get_allow_extras())
    text = unknown_text(*command, unknown.front());
  const std::string name = command_name(command);
  return fmt::format("{} (cachalot {}--help tells more)", text, name.empty() ? name : name + " ");
}

}  // namespace cachalot::apps
