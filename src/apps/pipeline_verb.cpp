// cachalot pipeline: from a base model to a student that has been evaluated, in stages.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "apps/command_line.h"
#include "apps/interrupts.h"
#include "apps/pipeline.h"
#include "apps/training_command.h"
#include "apps/verbs.h"

namespace cachalot::apps {
namespace {

struct Options {
  std::vector<std::string> files;
  bool dry_run = false;
};

// Returns the exit code.
Result<int> run(const Options& options, const CLI::App& command) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> assignments, assignments_of(command));
  CACHALOT_ASSIGN_OR_RETURN(const PipelineConfig config,
                            read_pipeline_config(options.files, assignments));
  if (options.dry_run) {
    fmt::print("{}", config.resolved);
    return 0;
  }
  watch_interrupts(1);
  const PipelineRequest request = {std::filesystem::read_symlink("/proc/self/exe").string(),
                                   [](const std::string& line) {
                                     fmt::print("{}\n", line);
                                     std::fflush(stdout);
                                   },
                                   [] { return interrupts() > 0; }};
  CACHALOT_ASSIGN_OR_RETURN(const bool is_done, run_pipeline(config, request));
  fmt::print("{}: {}/report.html\n", is_done ? "done" : "stopped; the same command goes on",
             config.run_dir);
  return is_done ? 0 : kInterrupted;
}

}  // namespace

void add_pipeline_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "pipeline",
      "from a base model to a student that has been evaluated, in stages that are commands of this "
      "program; started again, it goes on (docs/pipeline.md); --key=value sets single values");
  set_example(command, "pipeline configs/pipeline.toml --run_dir=runs/pipeline");
  command->add_option("files", options->files, "configuration files, later over earlier ones")
      ->required();
  command->add_flag("--dry-run", options->dry_run, "print the stages, and stop");
  command->allow_extras();
  command->callback([command, options, exit_code] {
    const Result<int> code = run(*options, *command);
    *exit_code = code ? *code : report_error(code.error());
  });
}

}  // namespace cachalot::apps
