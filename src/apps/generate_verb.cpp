#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/generate.h"
#include "apps/verbs.h"

namespace cachalot::apps {

void add_generate_verb(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("generate", "continue a prompt");
  set_example(command, "generate models/nano --prompt \"In the beginning\" --max-tokens 40");
  auto options = std::make_shared<GenerateOptions>();
  add_run_options(command, &options->run);
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "text");
  CLI::Option* file = command->add_option("--prompt-file", options->prompt_file,
                                          "file with the text; -: standard input");
  CLI::Option* ids =
      command->add_option("--prompt-ids", options->prompt_ids, "token ids, as they are: 0,17,5")
          ->delimiter(',');
  prompt->excludes(file)->excludes(ids);
  file->excludes(ids);
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "most tokens to generate (default: 256, or what the context leaves)")
      ->check(at_least(0));
  command->add_flag("--ignore-eos", options->ignore_eos, "go on after the end of the text");
  auto raw = std::make_shared<bool>(false);
  CLI::Option* raw_option = command->add_flag(
      "--raw", *raw, "the prompt is plain text to continue, after BOS (the default)");
  CLI::Option* chat =
      command->add_flag("--chat", options->chat, "the prompt is a user's message, to be answered");
  chat->excludes(raw_option)->excludes(ids);
  command->add_option("--system", options->system, "system message")->needs(chat);
  command->add_option("--family", options->family, "prompt format: v4, v4-0731 or v4.1")
      ->needs(chat);
  command
      ->add_option(
          "--effort", options->effort,
          "none, low, high or max (default: the model's generation_config.json, else high)")
      ->needs(chat);
  command->add_option("--save", options->save, "write the sequence with its cache to this file");
  command->add_option(
      "--restore", options->restore,
      "begin with a saved sequence: continue it, or reuse what a prompt shares with it");
  command->add_flag("--json", options->json, "one JSON object: ids, text, timings");
  command->callback([options, raw, exit_code] { *exit_code = exit_code_of(generate(*options)); });
}

}  // namespace cachalot::apps
