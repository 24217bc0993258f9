// cachalot report: a run's charts and numbers, or several runs beside each other, as one HTML file.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/report.h"
#include "apps/verbs.h"

namespace cachalot::apps {

void add_report_verb(CLI::App& app, int* exit_code) {
  struct Options {
    std::vector<std::string> directories;
    std::string out;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "report", "a training run as an HTML page; several runs: compared, seeds (-sN) as one");
  set_example(command, "report runs/a-s1 runs/a-s2 runs/b --out compared.html");
  command->add_option("directories", options->directories, "run directories")->required();
  command->add_option("--out", options->out, "the page; one run: report.html in its directory");
  command->callback([options, exit_code] {
    *exit_code = exit_code_of(write_report(options->directories, options->out));
    if (*exit_code == 0) fmt::print("{}\n", report_path(options->directories, options->out));
  });
}

}  // namespace cachalot::apps
