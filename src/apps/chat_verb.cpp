#include <CLI/CLI.hpp>
#include <memory>

#include "apps/chat.h"
#include "apps/command_line.h"
#include "apps/verbs.h"

namespace cachalot::apps {

void add_chat_verb(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand(
      "chat", "talk with a model in the terminal; through a pipe, each line is a message");
  set_example(command, "chat models/nano");
  auto options = std::make_shared<ChatOptions>();
  add_run_options(command, &options->run);
  command->add_option(
      "--family", options->family,
      "prompt format: v4, v4-0731 or v4.1 (default: v4.1 where the tokenizer says so, else v4)");
  command->add_option("--system", options->system, "system message");
  command->add_option(
      "--effort", options->effort,
      "none, low, high or max (default: the model's generation_config.json, else high)");
  command->add_option("--tools", options->tools,
                      "JSON file with tools to offer; calls are shown, /tool answers them");
  command->add_option("--load", options->load, "conversation to go on with");
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "most tokens of an answer (0: what the context leaves; default likewise, 0)")
      ->check(at_least(0));
  command->callback([options, exit_code] { *exit_code = exit_code_of(chat(*options)); });
}

}  // namespace cachalot::apps
