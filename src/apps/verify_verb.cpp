#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/verbs.h"
#include "verify/golden.h"

namespace cachalot::apps {

void add_verify_verb(CLI::App& app, int* exit_code) {
  CLI::App* verify = app.add_subcommand("verify", "check this build");
  verify->require_subcommand(1);
  auto options = std::make_shared<verify::VerifyOptions>();
  CLI::App* golden =
      verify->add_subcommand("golden", "compare with what other implementations computed");
  set_example(verify, "verify golden tests/golden/tiny");
  set_example(golden, "verify golden tests/golden/tiny --precision exact");
  golden
      ->add_option("directory", options->directory,
                   "config.json, model.safetensors, expected.safetensors")
      ->required();
  golden->add_option("--precision", options->precision, "exact or official");
  golden->add_option("--device", options->device, "cpu, cuda or cuda:N");
  golden->add_option("--threads", options->threads, "0: one per usable core");
  golden->callback([options, exit_code] {
    const Result<verify::GoldenReport> found = verify::verify_golden(*options);
    *exit_code = !found ? report_error(found.error()) : (found->all_hold() ? 0 : 1);
  });
}

}  // namespace cachalot::apps
