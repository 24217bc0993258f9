#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/evaluate.h"
#include "apps/verbs.h"
#include "data/tasks/task.h"

namespace cachalot::apps {

void add_evaluate_verb(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("evaluate", "a model's answers to verifiable tasks");
  set_example(command, "evaluate models/nano --greedy --max-difficulty 1 --count 20");
  auto options = std::make_shared<EvaluateOptions>();
  add_run_options(command, &options->run);
  command
      ->add_option("--families", options->families,
                   "a,b,c (default: all); of a difficulty and an effort of its own: a:3:high")
      ->delimiter(',');
  command->add_option("--tasks", options->files, "files of tasks with checkers (docs/rl.md)");
  command
      ->add_option("--count", options->count,
                   "tasks of each family and difficulty; of a file at most")
      ->check(at_least(1));
  const CLI::Range difficulties(0, data::kMaxDifficulty);
  command->add_option("--min-difficulty", options->min_difficulty, "the easiest, from 0")
      ->check(difficulties);
  command->add_option("--max-difficulty", options->max_difficulty, "the hardest")
      ->check(difficulties);
  command->add_option("--task-seed", options->task_seed, "other tasks");
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "most tokens of an answer, with what tools say; longer ones are wrong")
      ->check(at_least(1));
  command->add_option("--max-turns", options->max_turns, "most turns where there are tools")
      ->check(at_least(1));
  command->add_option("--parallel", options->parallel, "answers sampled at once; shows in no score")
      ->check(CLI::Range(1, 4096));
  command->add_option("--family", options->family, "prompt format: v4, v4-0731 or v4.1");
  command->add_option("--effort", options->effort, "none, low, high or max")
      ->check(CLI::IsMember({"none", "low", "high", "max"}));
  command->add_flag("--json", options->json, "one JSON object");
  command->callback([options, exit_code] { *exit_code = exit_code_of(evaluate(*options)); });
}

}  // namespace cachalot::apps
