// Every verb of the binary: each function adds its subcommand, which sets *exit_code when it runs
// (0; 1: a check failed; 2: an error, one line of which is on standard error; 130: a training verb
// stopped by Ctrl-C). Both arguments outlive the parse. main.cpp lists them all.
#pragma once

#include "base/status.h"

namespace CLI {
class App;
}

namespace cachalot::apps {

void add_generate_verb(CLI::App& app, int* exit_code);
void add_chat_verb(CLI::App& app, int* exit_code);
void add_serve_verb(CLI::App& app, int* exit_code);
void add_tokenize_verb(CLI::App& app, int* exit_code);
void add_logits_verb(CLI::App& app, int* exit_code);
void add_cache_verb(CLI::App& app, int* exit_code);
void add_verify_verb(CLI::App& app, int* exit_code);
void add_data_verb(CLI::App& app, int* exit_code);
void add_train_verb(CLI::App& app, int* exit_code);
void add_sft_verb(CLI::App& app, int* exit_code);
void add_rl_verb(CLI::App& app, int* exit_code);
void add_distill_verb(CLI::App& app, int* exit_code);
void add_rollout_verb(CLI::App& app, int* exit_code);
void add_pipeline_verb(CLI::App& app, int* exit_code);
void add_average_verb(CLI::App& app, int* exit_code);
void add_evaluate_verb(CLI::App& app, int* exit_code);
void add_report_verb(CLI::App& app, int* exit_code);
void add_bench_verb(CLI::App& app, int* exit_code);  // in bench/model

// Prints "error: ..." and gives the exit code for it.
int report_error(const Status& status);
int exit_code_of(const Status& status);  // 0, or report_error

}  // namespace cachalot::apps
