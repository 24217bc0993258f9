#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/commit.h"
#include "apps/verbs.h"
#include "matmul/matmul_bench.h"
#include "model/arrivals_bench.h"
#include "model/count_bench.h"
#include "model/drafts_bench.h"
#include "model/gpu_bench.h"
#include "model/model_bench.h"

namespace cachalot::apps {
namespace {

int print(const Result<std::string>& json) {
  if (!json) return report_error(json.error());
  fmt::print("{}\n", *json);
  return 0;
}

}  // namespace

void add_bench_verb(CLI::App& app, int* exit_code) {
  CLI::App* bench =
      app.add_subcommand("bench", "measure this machine and this build; JSON, one line");
  bench->require_subcommand(1);
  set_example(bench, "bench model");
  // The output is JSON with or without the flag, which the common form of the command line has.
  auto json = std::make_shared<bool>(false);

  auto model = std::make_shared<bench::ModelBenchOptions>();
  CLI::App* model_command =
      bench->add_subcommand("model", "decode and prefill of a model with made-up weights");
  set_example(model_command, "bench model --prompt-tokens 256 --decode-tokens 32");
  model_command->add_flag("--json", *json, "the output is JSON with or without it");
  model_command->add_option("--config", model->config_path,
                            "config.json (default: a slice of Flash, about 2.3 GB)");
  model_command->add_option("--precision", model->precision, "exact, bf16 or official");
  model_command->add_option("--threads", model->threads, "0: one per usable core");
  model_command->add_option("--prompt-tokens", model->prompt_tokens, "of the prompt")
      ->check(CLI::Range(1, 1 << 20));
  model_command->add_option("--decode-tokens", model->decode_tokens, "that are decoded")
      ->check(CLI::Range(1, 1 << 20));
  model_command->callback(
      [model, json, exit_code] { *exit_code = print(bench::run_model_bench(*model)); });

  auto context = std::make_shared<bench::ContextBenchOptions>();
  CLI::App* context_command =
      bench->add_subcommand("context", "a long prompt and decoding after it, small made-up model");
  set_example(context_command, "bench context --tokens 8192");
  context_command->add_flag("--json", *json, "the output is JSON with or without it");
  context_command->add_option("--config", context->config_path,
                              "config.json (default: a small model, every layer kind)");
  context_command->add_option("--precision", context->precision, "exact, bf16 or official");
  context_command->add_option("--threads", context->threads, "0: one per usable core");
  context_command->add_option("--tokens", context->context_tokens, "of the prompt")
      ->check(CLI::Range(64, 1 << 20));
  context_command->add_option("--chunk", context->chunk_tokens, "tokens that run at once")
      ->check(CLI::Range(1, 1 << 20));
  context_command->add_flag(
      "--cpu-clock", context->cpu_clock,
      "decoding by the process's time over its threads: for a machine that others use too");
  context_command->callback(
      [context, json, exit_code] { *exit_code = print(bench::run_context_bench(*context)); });

  auto batch = std::make_shared<bench::BatchBenchOptions>();
  CLI::App* batch_command =
      bench->add_subcommand("batch", "many sequences that decode at once, beside the limits");
  set_example(batch_command, "bench batch --model models/nano");
  batch_command->add_flag("--json", *json, "the output is JSON with or without it");
  batch_command->add_option("--model", batch->model,
                            "model directory (default: a slice of Flash, made up)");
  batch_command->add_option("--precision", batch->precision, "exact, bf16 or official");
  batch_command->add_option("--threads", batch->threads, "0: one per usable core");
  batch_command->add_option("--prompt-tokens", batch->prompt_tokens, "of each prompt")
      ->check(CLI::Range(1, 1 << 20));
  batch_command->add_option("--decode-tokens", batch->decode_tokens, "that each decodes")
      ->check(CLI::Range(4, 1 << 20));
  batch_command
      ->add_option("--sequences", batch->sequences, "that decode at once (default: 1,4,16,64)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  batch_command->add_flag("--cpu-clock", batch->cpu_clock,
                          "the process's time over its threads: for a machine that others use too");
  batch_command->add_option("--rounds", batch->rounds, "of each number of sequences, in turn")
      ->check(CLI::Range(1, 1000));
  batch_command->callback(
      [batch, json, exit_code] { *exit_code = print(bench::run_batch_bench(*batch)); });

  auto gpu = std::make_shared<bench::GpuBenchOptions>();
  CLI::App* gpu_command = bench->add_subcommand(
      "gpu", "prefill and decode of Flash's layers on a GPU, made-up weights");
  set_example(gpu_command, "bench gpu --layers 8");
  auto table = std::make_shared<bool>(false);
  gpu_command->add_flag("--json", *json, "the output is JSON with or without it");
  gpu_command->add_flag("--table", *table, "the rows of docs/benchmarks.md instead of JSON");
  gpu_command->add_option("--layers", gpu->layers, "Flash's first ones, at full width")
      ->check(CLI::Range(1, 43));
  gpu_command->add_option("--device", gpu->device, "cuda or cuda:N");
  gpu_command->add_option("--precision", gpu->precision,
                          "exact, bf16, official or official-fp8 (default: official-fp8)");
  gpu_command->add_option("--threads", gpu->threads, "0: one per usable core");
  gpu_command->add_option("--prompts", gpu->prompts, "tokens of prompts (default: 4096)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  gpu_command
      ->add_option("--contexts", gpu->contexts,
                   "of decode, the first prompt's length or longer (default: 4096)")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  gpu_command->add_option("--sequences", gpu->sequences, "that decode at once (default: 1,8,64)")
      ->delimiter(',')
      ->check(CLI::Range(1, 64));
  gpu_command->add_option("--decode-tokens", gpu->decode_tokens, "that each sequence decodes")
      ->check(CLI::Range(4, 1 << 20));
  gpu_command->add_option("--chunk-tokens", gpu->chunk_tokens, "of a prompt that run at once")
      ->check(CLI::Range(1, 1 << 20));
  gpu_command->callback([gpu, table, exit_code] {
    gpu->commit = kCommit;
    const Result<bench::GpuBenchReport> report = bench::run_gpu_bench(*gpu);
    if (!report) {
      *exit_code = report_error(report.error());
    } else {
      fmt::print("{}\n", *table ? report->table : report->json);
    }
  });

  auto count = std::make_shared<bench::CountBenchOptions>();
  CLI::App* count_command = bench->add_subcommand(
      "count", "FLOPs and cache bytes of a token at a long context, counted as its ops run");
  set_example(count_command, "bench count --device cpu --presets nano");
  count_command->add_flag("--json", *json, "the output is JSON with or without it");
  count_command->add_option("--presets", count->presets, "of models (default: flash,pro)")
      ->delimiter(',');
  count_command->add_option("--context", count->context, "tokens, a multiple of 256")
      ->check(CLI::Range(256, 1 << 20));
  count_command->add_option("--device", count->device, "cpu, cuda or cuda:N");
  count_command->add_option("--precision", count->precision,
                            "exact, bf16, official or official-fp8 (default: official-fp8)");
  count_command->callback(
      [count, json, exit_code] { *exit_code = print(bench::run_count_bench(*count)); });

  auto arrivals = std::make_shared<bench::ArrivalsBenchOptions>();
  CLI::App* arrivals_command = bench->add_subcommand(
      "arrivals", "the time between tokens of running sequences while prompts arrive");
  set_example(arrivals_command, "bench arrivals --model models/nano");
  arrivals_command->add_flag("--json", *json, "the output is JSON with or without it");
  arrivals_command->add_option("--model", arrivals->model, "model directory")->required();
  arrivals_command->add_option("--precision", arrivals->precision, "exact, bf16 or official");
  arrivals_command->add_option("--threads", arrivals->threads, "0: one per usable core");
  arrivals_command->add_option("--sequences", arrivals->sequences, "that decode all the time")
      ->check(CLI::Range(1, 256));
  arrivals_command->add_option("--prompt-tokens", arrivals->prompt_tokens, "of each prompt")
      ->check(CLI::Range(1, 1 << 20));
  arrivals_command->add_option("--prompts", arrivals->prompts, "that arrive")
      ->check(CLI::Range(1, 1000));
  arrivals_command->add_option("--max-token-gap", arrivals->max_token_gap_seconds,
                               "seconds between tokens; 0: the engine's default");
  arrivals_command->add_flag("--cpu-clock", arrivals->cpu_clock,
                             "the process's time: for a machine that others use too");
  arrivals_command->callback(
      [arrivals, json, exit_code] { *exit_code = print(bench::run_arrivals_bench(*arrivals)); });

  auto drafts = std::make_shared<bench::DraftsBenchOptions>();
  CLI::App* drafts_command =
      bench->add_subcommand("drafts", "tokens a second with adaptive drafts and without them");
  set_example(drafts_command, "bench drafts --model models/nano");
  drafts_command->add_flag("--json", *json, "the output is JSON with or without it");
  drafts_command->add_option("--model", drafts->model, "model directory")->required();
  drafts_command->add_option("--precision", drafts->precision, "exact, bf16 or official");
  drafts_command->add_option("--threads", drafts->threads, "0: one per usable core");
  drafts_command->add_option("--drafts", drafts->max_drafts, "the most of a step")
      ->check(CLI::Range(1, 16));
  drafts_command->add_option("--new-tokens", drafts->new_tokens, "of each answer")
      ->check(CLI::Range(4, 1 << 20));
  drafts_command->add_option("--rounds", drafts->rounds, "of each workload, both ways in turn")
      ->check(CLI::Range(1, 1000));
  drafts_command->add_flag("--cpu-clock", drafts->cpu_clock,
                           "the process's time: for a machine that others use too");
  drafts_command->callback(
      [drafts, json, exit_code] { *exit_code = print(bench::run_drafts_bench(*drafts)); });

  auto matmul = std::make_shared<bench::MatmulBenchOptions>();
  CLI::App* matmul_command = bench->add_subcommand(
      "matmul", "matrix products beside the limits (matmul_bench adds oneDNN)");
  set_example(matmul_command, "bench matmul --threads 1,2");
  matmul_command->add_flag("--json", *json, "the output is JSON with or without it");
  matmul_command->add_option("--threads", matmul->num_threads, "counts to measure")->delimiter(',');
  matmul_command->add_option("--squares", matmul->squares, "sides of square products")
      ->delimiter(',');
  matmul_command->add_option("--rows", matmul->rows, "rows of products with a wide weight")
      ->delimiter(',');
  matmul_command
      ->add_option("--gradient-rows", matmul->gradient_rows, "rows of the backward products")
      ->delimiter(',');
  matmul_command->callback([matmul, json, exit_code] {
    const Result<device::Isa> isa = device::chosen_isa();
    if (!isa) {
      *exit_code = report_error(isa.error());
      return;
    }
    matmul->isa = *isa;
    fmt::print("{}\n", bench::run_matmul_bench(*matmul).to_json());
  });
}

}  // namespace cachalot::apps
