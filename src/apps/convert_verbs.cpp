#include "apps/convert_verbs.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>

#include "apps/command_line.h"
#include "apps/inspect.h"
#include "apps/model_argument.h"
#include "formats/convert.h"

namespace cachalot::apps {
namespace {

using formats::ConvertOptions;
using formats::ConvertPrecision;
using formats::ConvertSummary;
using formats::ExpertTarget;
using formats::NameFamily;

int report(const Status& status) {
  std::fprintf(stderr, "error: %s\n", status.message().c_str());
  return 2;
}

void print_summary(const ConvertSummary& s) {
  fmt::print("{} tensors, {} bytes in {} files; {} copied unchanged\n", s.num_tensors,
             s.total_bytes, s.num_files, s.copied_tensors);
  if (s.rounded_values > 0) fmt::print("{} values rounded to a narrower float\n", s.rounded_values);
  if (!s.unknown_ratios.empty()) {
    fmt::print(
        "transformers knows layers of the compression ratios 0, 4 and 128; this model also "
        "has {}: it will not load there\n",
        fmt::join(s.unknown_ratios, ", "));
  }
  if (s.is_quantised_there) {
    fmt::print(
        "transformers reads quantised weights under the public names alone: leave --names out, or "
        "dequantise with convert --dtype bf16\n");
  }
  if (s.blocks.blocks > 0) {
    fmt::print("{} blocks quantised, {} of them without loss; {} kept the original's scale\n",
               s.blocks.blocks, s.blocks.blocks - s.blocks.inexact_blocks,
               s.blocks.preferred_blocks);
  }
}

int run_convert(const std::string& source, const std::string& destination, ConvertOptions options) {
  if (const Status status = check_model_path(source); !status.ok()) return report(status);
  const bool is_terminal = ::isatty(STDERR_FILENO) != 0;
  if (is_terminal) {
    options.progress = [](int64_t done, int64_t total) {
      std::fprintf(
          stderr, "\r%5.1f %%",
          total == 0 ? 100.0 : 100.0 * static_cast<double>(done) / static_cast<double>(total));
    };
  }
  const Result<ConvertSummary> summary = formats::convert_checkpoint(source, destination, options);
  if (is_terminal) std::fprintf(stderr, "\r         \r");
  if (!summary) return report(summary.error());
  print_summary(*summary);
  return 0;
}

struct ConvertArguments {
  std::string source;
  std::string destination;
  ConvertOptions options;
};

void add_common(CLI::App* command, ConvertArguments* arguments) {
  add_model_option(command, "source", &arguments->source, "model directory")->required();
  command->add_option("destination", arguments->destination, "new directory")->required();
  command->add_option("--names", arguments->options.names, "tensor names: official or transformers")
      ->transform(choice<NameFamily>(
          {{"official", NameFamily::official}, {"transformers", NameFamily::transformers}}));
  command
      ->add_option("--max-shard-bytes", arguments->options.max_shard_bytes,
                   "most tensor bytes in a file (default 5 GB)")
      ->transform(CLI::AsSizeValue(true));
  add_model_option(command, "--like", &arguments->options.like,
                   "a quantised checkpoint whose scales are kept wherever they hold the values "
                   "exactly (default: those that "
                   "convert --dtype left beside the source)");
}

void add_inspect(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* command =
      app.add_subcommand("inspect", "what a checkpoint or a config.json is and costs");
  set_example(command, "inspect flash");
  add_model_option(command, "path", &options->path,
                   "model directory, config.json, or nano, mini, flash or pro")
      ->required();
  command->add_flag("--json", options->json, "the report as JSON");
  command->add_option("--svg", options->svg_directory,
                      "also write flops.svg and kv_bytes.svg into this directory");
  command->callback([options, exit_code] {
    const Result<std::string> text = inspect(*options);
    if (!text) {
      *exit_code = report(text.error());
    } else {
      std::fwrite(text->data(), 1, text->size(), stdout);
    }
  });
}

void add_convert(CLI::App& app, int* exit_code) {
  auto arguments = std::make_shared<ConvertArguments>();
  CLI::App* command =
      app.add_subcommand("convert", "rewrite a checkpoint: precision, names, shards");
  set_example(command, "convert models/nano nano-bf16 --dtype bf16 --names transformers");
  add_common(command, arguments.get());
  command->add_option("--dtype", arguments->options.precision, "keep, or dequantise to f32 or bf16")
      ->transform(choice<ConvertPrecision>({{"keep", ConvertPrecision::keep},
                                            {"f32", ConvertPrecision::f32},
                                            {"bf16", ConvertPrecision::bf16}}));
  command
      ->add_option("--experts", arguments->options.experts,
                   "recast quantised experts: keep, fp8 or fp4")
      ->transform(choice<ExpertTarget>(
          {{"keep", ExpertTarget::keep}, {"fp8", ExpertTarget::fp8}, {"fp4", ExpertTarget::fp4}}));
  command->callback([arguments, exit_code] {
    *exit_code = run_convert(arguments->source, arguments->destination, arguments->options);
  });
}

void add_quantize(CLI::App& app, int* exit_code) {
  auto arguments = std::make_shared<ConvertArguments>();
  arguments->options.precision = ConvertPrecision::quantized;
  CLI::App* command = app.add_subcommand(
      "quantize", "a bf16 or f32 checkpoint to FP8 and FP4 in the public layout");
  set_example(command, "quantize runs/mine mine-fp4");
  add_common(command, arguments.get());
  command->callback([arguments, exit_code] {
    *exit_code = run_convert(arguments->source, arguments->destination, arguments->options);
  });
}

}  // namespace

void add_checkpoint_verbs(CLI::App& app, int* exit_code) {
  add_inspect(app, exit_code);
  add_convert(app, exit_code);
  add_quantize(app, exit_code);
}

}  // namespace cachalot::apps
