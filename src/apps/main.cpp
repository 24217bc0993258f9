// cachalot: one binary, one verb per job.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <vector>

#include "apps/command_line.h"
#include "apps/convert_verbs.h"
#include "apps/verbs.h"
#include "apps/version.h"
#include "base/env.h"
#include "base/file.h"
#include "device/isa.h"

namespace {

std::string environment_help() {
  std::string text = "Environment:\n";
  for (const cachalot::EnvVariable& variable : cachalot::env_variables()) {
    text += fmt::format("  {:<28}{}\n", variable.name, variable.help);
  }
  return text;
}

// 0, or the exit code after all that is wrong with the environment has been shown.
int check_environment() {
  int exit_code = 0;
  for (const cachalot::Status& status :
       {cachalot::check_environment(), cachalot::device::chosen_isa().error()}) {
    if (!status.ok()) exit_code = cachalot::apps::report_error(status);
  }
  return exit_code;
}

int run(int argc, char** argv) {
  using namespace cachalot::apps;
  if (const int wrong = check_environment(); wrong != 0) return wrong;
  CLI::App app("Cachalot: DeepSeek-V4 models, trained and served", argc > 0 ? argv[0] : "cachalot");
  app.set_version_flag("--version", version_text);
  app.footer(environment_help() + "Example: cachalot chat models/nano");
  app.require_subcommand(1);
  set_help_style(app);

  int exit_code = 0;
  add_generate_verb(app, &exit_code);
  add_chat_verb(app, &exit_code);
  add_serve_verb(app, &exit_code);
  add_cache_verb(app, &exit_code);
  add_tokenize_verb(app, &exit_code);
  add_logits_verb(app, &exit_code);
  add_checkpoint_verbs(app, &exit_code);
  add_verify_verb(app, &exit_code);
  add_data_verb(app, &exit_code);
  add_train_verb(app, &exit_code);
  add_sft_verb(app, &exit_code);
  add_rl_verb(app, &exit_code);
  add_distill_verb(app, &exit_code);
  add_rollout_verb(app, &exit_code);
  add_pipeline_verb(app, &exit_code);
  add_average_verb(app, &exit_code);
  add_evaluate_verb(app, &exit_code);
  add_report_verb(app, &exit_code);
  add_bench_verb(app, &exit_code);

  try {
    const std::vector<const char*> words = with_help_verb(argc, argv);
    app.parse(static_cast<int>(words.size()), words.data());
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "error: %s\n", parse_error_text(app, e).c_str());
    return 2;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  // Our code does not throw; the libraries and the allocator may.
  try {
    const int exit_code = run(argc, argv);
    const cachalot::Status status = cachalot::flush_standard_output();
    return exit_code != 0 ? exit_code : cachalot::apps::exit_code_of(status);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 2;
  }
}
