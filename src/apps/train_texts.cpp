#include "apps/train_texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>

#include "apps/run_folder.h"
#include "apps/run_options.h"
#include "apps/terminal.h"
#include "base/file.h"
#include "data/corpus_list.h"
#include "data/split_text.h"
#include "data/text_files.h"
#include "data/tokenize_corpus.h"
#include "formats/json_text.h"
#include "formats/presets.h"
#include "text/bpe_trainer.h"
#include "train/checkpoint.h"
#include "train/preset_schedule.h"
#include "train/train_config.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

constexpr char kOrigin[] = "--data";
constexpr int kBos = 0;
constexpr int kEos = 1;
constexpr double kHoldOut = 0.02;
// A token that stands in the text less often is not worth a row of the embedding.
constexpr int64_t kLeastCount = 8;
constexpr int64_t kAnyBudget = 1'000'000;
// Fewer sequences are no text to learn from.
constexpr int64_t kLeastSequences = 4;

data::TextOptions text_options() {
  data::TextOptions options;
  options.max_piece_bytes = data::kPieceBytes;
  options.hold_out = kHoldOut;
  return options;
}

std::string text_at(const train::ConfigTree& tree, std::string_view path) {
  const json::value* value = train::find(tree, path);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

Status learn_tokenizer(const std::vector<std::string>& files, int64_t vocab_size,
                       const std::string& path) {
  text::BpeTrainer trainer;
  CACHALOT_ASSIGN_OR_RETURN(data::TextDocuments documents,
                            data::TextDocuments::open(files, text_options()));
  while (true) {
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<data::TextPiece> piece, documents.next());
    if (!piece) break;
    if (!piece->held_out) trainer.add(piece->text);
  }
  CACHALOT_ASSIGN_OR_RETURN(const text::TokenizerSpec spec, trainer.train(vocab_size, kLeastCount));
  return write_file_atomically(path, text::tokenizer_json(spec));
}

Result<int64_t> tokens_of(const std::string& list) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<data::CorpusShard> shards,
                            data::read_corpus_list(list));
  int64_t tokens = 0;
  for (const data::CorpusShard& shard : shards) tokens += shard.num_tokens;
  return tokens;
}

class Texts {
 public:
  Texts(train::ConfigTree& tree, ThreadPool& threads) : tree_(tree), threads_(threads) {}

  Status add(const TextsRequest& request) {
    if (train::find(tree_, "data") != nullptr) {
      return invalid_argument(
          "--data: expected a configuration without [[data]] of its own, found one");
    }
    set("run_dir", json::string(run_directory(request.texts[0])));
    const std::string run_dir = text_at(tree_, "run_dir");
    folder_ = run_dir + "/data";
    std::error_code error;
    const bool goes_on = request.resume && fs::exists(folder_ + kList, error);
    if (goes_on) CACHALOT_RETURN_IF_ERROR(lay_over_run(run_dir + "/run.toml"));
    if (train::find(tree_, "model.config") == nullptr &&
        train::find(tree_, "model.init_from") == nullptr)
      set("model.preset", "nano");
    if (!request.resume && !request.dry_run && !train::list_checkpoints(run_dir).empty()) {
      return invalid_argument(fmt::format(
          "{}: expected a directory without a run, found one; --resume goes on with it, "
          "--run_dir=DIR begins another",
          run_dir));
    }
    CACHALOT_RETURN_IF_ERROR(check());
    if (goes_on) return describe(folder_).error();
    CACHALOT_ASSIGN_OR_RETURN(NewFolder made,
                              request.dry_run ? NewFolder::temporary() : NewFolder::at(folder_));
    CACHALOT_RETURN_IF_ERROR(make(request.texts, made.path()));
    CACHALOT_ASSIGN_OR_RETURN(const int64_t tokens, describe(made.path()));
    if (tokens < least_tokens_) {
      return invalid_argument(fmt::format(
          "--data: expected at least {} tokens to train on, {} sequences of {}, found {}: give "
          "more text, or shorter sequences with --schedule.sequence",
          grouped(least_tokens_), kLeastSequences, least_tokens_ / kLeastSequences,
          grouped(tokens)));
    }
    if (!request.dry_run) made.keep();
    return {};
  }

 private:
  static constexpr char kList[] = "/texts.json", kHeldOutList[] = "/texts-heldout.json";

  // What was given, laid over the run's own configuration; a run that ended before it had one has
  // none to go by.
  Status lay_over_run(const std::string& path) {
    std::error_code error;
    if (!fs::exists(path, error)) return {};
    CACHALOT_ASSIGN_OR_RETURN(train::ConfigTree run,
                              train::read_config_tree(std::span(&path, 1), {}));
    train::overlay(run, tree_);
    tree_ = std::move(run);
    return {};
  }

  // The configuration that the texts will complete, with anything in their place. A preset that
  // there is not has no budget to suggest: it is the only error then.
  Status check() {
    train::ConfigTree trial = tree_;
    train::set_if_absent(trial, "data",
                         json::array{json::object{{"name", "texts"}, {"path", folder_ + kList}}},
                         kOrigin);
    const std::string preset = text_at(tree_, "model.preset");
    const int64_t budget =
        preset.empty() || formats::preset_config(preset)
            ? train::suggested_budget(preset, std::numeric_limits<int64_t>::max())
            : kAnyBudget;
    if (budget > 0) train::set_if_absent(trial, "schedule.batch.total_tokens", budget, kOrigin);
    CACHALOT_ASSIGN_OR_RETURN(const train::TrainConfig config, train::train_config_from(trial));
    least_tokens_ = kLeastSequences * config.schedule.sequence[0].sequence_length;
    if (!text_at(tree_, "tokenizer").empty()) return {};
    return vocab_size().error();
  }

  void set(std::string_view path, json::value value) {
    train::set_if_absent(tree_, path, std::move(value), kOrigin);
  }

  std::string tokenizer_path(const std::string& folder) const {
    const std::string given = text_at(tree_, "tokenizer");
    return given.empty() ? folder + "/tokenizer.json" : given;
  }

  Result<int64_t> vocab_size() const {
    const json::value* given = train::find(tree_, "model.vocab_size");
    if (given != nullptr && given->is_int64()) return given->get_int64();
    const std::string preset = text_at(tree_, "model.preset");
    if (preset.empty()) {
      return invalid_argument(
          "--data: expected a tokenizer, model.vocab_size or model.preset, found none of them");
    }
    CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig model, formats::preset_config(preset));
    return model.vocab_size;
  }

  Status make(const std::vector<std::string>& texts, const std::string& folder) {
    CACHALOT_ASSIGN_OR_RETURN(const data::TextFiles files,
                              data::find_text_files(texts, text_options().documents));
    fmt::print("texts      {} files{}\n", grouped(static_cast<int64_t>(files.paths.size())),
               files.num_passed_over == 0
                   ? ""
                   : fmt::format(", {} passed over that hold no text", files.num_passed_over));
    for (const std::string& reason : files.reasons) fmt::print("           {}\n", reason);
    std::fflush(stdout);
    if (text_at(tree_, "tokenizer").empty()) {
      CACHALOT_ASSIGN_OR_RETURN(const int64_t size, vocab_size());
      CACHALOT_RETURN_IF_ERROR(learn_tokenizer(files.paths, size, tokenizer_path(folder)));
    }
    CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer,
                              open_tokenizer(tokenizer_path(folder)));
    fmt::print("tokenizer  {} tokens\n", grouped(tokenizer.vocab_size()));
    std::fflush(stdout);
    data::TokenizeOptions options;
    options.text = text_options();
    options.bos_id = kBos;
    options.eos_id = kEos;
    CACHALOT_ASSIGN_OR_RETURN(
        const data::TokenizedCorpus corpus,
        data::tokenize_corpus(tokenizer, files.paths, folder + "/texts", options, threads_));
    fmt::print("corpus     {} tokens in {} documents, {} tokens held out{}\n",
               grouped(corpus.training.num_tokens), grouped(corpus.training.num_documents),
               grouped(corpus.held_out.num_tokens),
               corpus.num_repeated == 0
                   ? ""
                   : fmt::format(", {} repeated documents left out", corpus.num_repeated));
    return {};
  }

  // The files are in `folder` and will be in folder_. Returns the tokens to train on.
  Result<int64_t> describe(const std::string& folder) {
    set("data", json::array{json::object{{"name", "texts"}, {"path", folder_ + kList}}});
    CACHALOT_ASSIGN_OR_RETURN(const int64_t num_held_out, tokens_of(folder + kHeldOutList));
    if (num_held_out > 0) {
      set("validation",
          json::array{json::object{{"name", "heldout"}, {"path", folder_ + kHeldOutList}}});
    }
    CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer,
                              open_tokenizer(tokenizer_path(folder)));
    set("tokenizer", json::string(tokenizer_path(folder_)));
    if (train::find(tree_, "model.init_from") == nullptr)
      set("model.vocab_size", tokenizer.vocab_size());
    CACHALOT_ASSIGN_OR_RETURN(const int64_t num_tokens, tokens_of(folder + kList));
    const int64_t budget = train::suggested_budget(text_at(tree_, "model.preset"), num_tokens);
    if (budget > 0) set("schedule.batch.total_tokens", budget);
    return num_tokens;
  }

  train::ConfigTree& tree_;
  ThreadPool& threads_;
  std::string folder_;  // of the run
  int64_t least_tokens_ = 0;
};

}  // namespace

Status add_texts(train::ConfigTree& tree, const TextsRequest& request, ThreadPool& threads) {
  return Texts(tree, threads).add(request);
}

Status write_text_defaults(const train::TrainConfig& config, bool resume) {
  const std::string path = config.run_dir + "/generation_config.json";
  std::error_code error;
  if (resume && fs::exists(path, error)) return {};
  // Half of a sequence as trained is the question's.
  constexpr int64_t kLongest = 256;
  const int64_t length = config.schedule.sequence.back().sequence_length / 2;
  const json::object defaults = {
      {"bos_token_id", kBos},
      {"eos_token_id", kEos},
      {"do_sample", true},
      {"temperature", 0.7},
      {"max_new_tokens", std::clamp<int64_t>(length, 1, kLongest)},
      {"cachalot", json::object{{"effort", "none"}, {"plain_text", true}}}};
  CACHALOT_RETURN_IF_ERROR(create_directories(config.run_dir));
  return write_file_atomically(path, formats::to_pretty_json(defaults));
}

}  // namespace cachalot::apps
