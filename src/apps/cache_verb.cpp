// cachalot cache: what the prefix cache keeps on disk.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>

#include "apps/command_line.h"
#include "apps/run_options.h"
#include "apps/verbs.h"
#include "base/env.h"
#include "base/file.h"
#include "cache/disk_store.h"
#include "cache/prefix_explain.h"
#include "text/prompt_ids.h"

namespace cachalot::apps {
namespace {

using cache::DiskStore;

struct Options {
  std::string directory;
  double max_gib = -1;
  bool all = false;
  RunOptions run;
  std::string prompt, prompt_file;
  std::vector<int32_t> prompt_ids;
};

double mib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

// The folder must be there: a mistyped one is no empty cache.
Result<std::unique_ptr<DiskStore>> open_store(const Options& options) {
  const std::string directory =
      options.directory.empty() ? env_cache_dir() + "/prefixes" : options.directory;
  CACHALOT_RETURN_IF_ERROR(list_directory(directory).error());
  // The bound is for writers; this one removes what it is told to.
  return DiskStore::open({.directory = directory});
}

Status list(const Options& options) {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<DiskStore> store, open_store(options));
  while (store->is_recovering()) CACHALOT_RETURN_IF_ERROR(store->recover(1000));
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<cache::IndexSummary> kept, store->summary());
  CACHALOT_ASSIGN_OR_RETURN(std::vector<cache::DiskSegment> segments, store->segments());
  for (const cache::IndexSummary& one : kept) {
    fmt::print(
        "model {:016x} layout {:016x} version {} base {}: {} blocks, {} states, {:.1f} MiB\n",
        one.identity.fingerprint, one.identity.layout_hash, one.identity.weights_version,
        one.identity.position_base, one.num_blocks, one.num_states, mib(one.num_bytes));
  }
  const int64_t now = std::chrono::duration_cast<std::chrono::seconds>(
                          std::chrono::system_clock::now().time_since_epoch())
                          .count();
  int64_t total = 0;
  for (const cache::DiskSegment& segment : segments) {
    total += segment.num_bytes;
    fmt::print("{} {:.1f} MiB, used {} s ago{}\n", segment.name, mib(segment.num_bytes),
               now - segment.used / 1'000'000'000, segment.is_written ? ", being written" : "");
  }
  fmt::print("{} segments, {:.1f} MiB\n", segments.size(), mib(total));
  return {};
}

// 0, or 1 where something is damaged.
Result<int> check(const Options& options) {
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<DiskStore> store, open_store(options));
  CACHALOT_ASSIGN_OR_RETURN(const cache::DiskCheck found, store->check());
  for (const std::string& damage : found.damages) fmt::print("{}\n", damage);
  fmt::print("{} sound records, {:.1f} MiB; {} damages{}\n", found.num_records,
             mib(found.num_bytes), found.damages.size(),
             found.damages.empty() ? "" : ", which are served no more");
  return found.damages.empty() ? 0 : 1;
}

Status prune(const Options& options) {
  if (options.all == (options.max_gib >= 0))
    return invalid_argument("cache prune: expected --max-gib or --all, one of them");
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<DiskStore> store, open_store(options));
  const auto most = options.all
                        ? int64_t{0}
                        : static_cast<int64_t>(options.max_gib * static_cast<double>(1 << 30));
  CACHALOT_ASSIGN_OR_RETURN(const int64_t removed, store->prune(most));
  fmt::print("{:.1f} MiB removed\n", mib(removed));
  return {};
}

Status explain(const Options& options) {
  const bool has_text = !options.prompt.empty() || !options.prompt_file.empty();
  if (has_text == !options.prompt_ids.empty()) {
    return invalid_argument(
        "cache explain: expected --prompt, --prompt-file or --prompt-ids, one of them");
  }
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<DiskStore> store, open_store(options));
  CACHALOT_ASSIGN_OR_RETURN(const Session session, open_session(options.run, has_text));
  std::vector<int32_t> ids = options.prompt_ids;
  if (has_text) {
    std::string text = options.prompt;
    if (!options.prompt_file.empty()) {
      CACHALOT_ASSIGN_OR_RETURN(text, read_text_file(options.prompt_file));
    }
    ids = text::raw_prompt_ids(*session.tokenizer, session.engine->config().bos_token_id, text);
  }
  const cache::CacheLayout& layout = session.engine->cache_layout();
  CACHALOT_ASSIGN_OR_RETURN(
      const cache::PrefixExplanation found,
      cache::explain_prefix(*store, {layout.fingerprint(), layout.hash(), 0, 0},
                            layout.block_tokens(), ids));
  fmt::print("{} tokens: {} of them are kept; the last state is at {}\n{}\n", ids.size(),
             found.kept_tokens, found.state_tokens, found.why);
  return {};
}

CLI::App* add_part(CLI::App* command, const std::string& name, const std::string& help,
                   Options* options) {
  CLI::App* part = command->add_subcommand(name, help);
  part->add_option("--dir", options->directory,
                   "the folder (default: prefixes in CACHALOT_CACHE_DIR)");
  return part;
}

}  // namespace

void add_cache_verb(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("cache", "what is kept of earlier prompts on disk");
  command->require_subcommand(1);
  set_example(command, "cache explain models/nano --prompt \"In the beginning\"");

  add_part(command, "list", "models and segments", options.get())->callback([options, exit_code] {
    *exit_code = exit_code_of(list(*options));
  });
  add_part(command, "check", "read everything; forget what is damaged", options.get())
      ->callback([options, exit_code] {
        const Result<int> found = check(*options);
        *exit_code = found ? *found : report_error(found.error());
      });
  CLI::App* pruned =
      add_part(command, "prune", "remove what was used least recently", options.get());
  pruned->add_option("--max-gib", options->max_gib, "how much may stay")
      ->check(CLI::NonNegativeNumber);
  pruned->add_flag("--all", options->all, "nothing stays");
  pruned->callback([options, exit_code] { *exit_code = exit_code_of(prune(*options)); });

  CLI::App* explained =
      add_part(command, "explain", "how much of a prompt is kept, and why no more", options.get());
  add_run_options(explained, &options->run);
  explained->add_option("--prompt", options->prompt, "text");
  explained->add_option("--prompt-file", options->prompt_file, "file with the text");
  explained->add_option("--prompt-ids", options->prompt_ids, "token ids, as they are: 0,17,5")
      ->delimiter(',');
  explained->callback([options, exit_code] { *exit_code = exit_code_of(explain(*options)); });
}

}  // namespace cachalot::apps
