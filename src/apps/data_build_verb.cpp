// cachalot data build: a corpus from a recipe.
#include "apps/data_build_verb.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "apps/command_line.h"
#include "apps/verbs.h"
#include "data/corpus_build.h"

namespace cachalot::apps {
namespace {

struct BuildOptions {
  std::string recipe;
  std::string recipes = "configs/corpus.json";
  std::string lock = "configs/corpus.lock.json";
  std::string licences = "all";
  data::CorpusBuildOptions options;
};

Status build(BuildOptions o) {
  if (o.options.cache.empty()) o.options.cache = o.options.out + "/cache";
  o.options.permissive_only = o.licences == "permissive";
  o.options.progress = [](const std::string& line) { fmt::print("{}\n", line); };
  CACHALOT_ASSIGN_OR_RETURN(const data::CorpusRecipe recipe,
                            data::read_recipe(o.recipes, o.lock, o.recipe));
  ThreadPool threads;
  CACHALOT_ASSIGN_OR_RETURN(const data::CorpusBuildSummary summary,
                            data::build_corpus(recipe, o.options, threads));
  fmt::print("{}: {} documents, {:.1f} MB to train on, {:.1f} MB held out\n", o.options.out,
             summary.num_documents, static_cast<double>(summary.text_bytes) * 1e-6,
             static_cast<double>(summary.held_out_bytes) * 1e-6);
  return {};
}

}  // namespace

void add_data_build_verb(CLI::App& data_verb, int* exit_code) {
  auto options = std::make_shared<BuildOptions>();
  CLI::App* command =
      data_verb.add_subcommand("build", "a reproducible text corpus from Debian packages");
  set_example(command, "data build tiny --out corpus");
  command->add_option("recipe", options->recipe, "tiny, small or full")->required();
  command->add_option("--out", options->options.out, "directory to write")->required();
  command->add_option("--cache", options->options.cache, "of packages (default: OUT/cache)");
  command->add_option("--recipes", options->recipes, "recipes file");
  command->add_option("--lock", options->lock, "lock file: versions and SHA-256");
  command->add_option("--licences", options->licences, "all, or permissive ones only")
      ->check(CLI::IsMember({"all", "permissive"}));
  command->callback([options, exit_code] { *exit_code = exit_code_of(build(*options)); });
}

}  // namespace cachalot::apps
