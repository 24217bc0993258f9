#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/verbs.h"
#include "verify/golden.h"
#include "verify/posttrain.h"

namespace cachalot::apps {
namespace {

int exit_code_of(const Result<verify::GoldenReport>& found) {
  return !found ? report_error(found.error()) : (found->all_hold() ? 0 : 1);
}

void add_posttrain_verb(CLI::App& verify, int* exit_code) {
  CLI::App* posttrain = verify.add_subcommand(
      "posttrain", "compare losses, gradients and estimators of post-training");
  auto options = std::make_shared<verify::PosttrainOptions>();
  set_example(posttrain, "verify posttrain SET --model tests/golden/tiny");
  posttrain->add_option("directory", options->directory, "eval, grpo and sft")->required();
  posttrain->add_option("--model", options->model, "the model that they were computed for")
      ->required();
  posttrain->add_option("--threads", options->threads, "0: one per usable core");
  posttrain->callback(
      [options, exit_code] { *exit_code = exit_code_of(verify::verify_posttrain(*options)); });
}

}  // namespace

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
  golden->callback(
      [options, exit_code] { *exit_code = exit_code_of(verify::verify_golden(*options)); });
  add_posttrain_verb(*verify, exit_code);
}

}  // namespace cachalot::apps
