#include "apps/sft_conversations.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>

#include "apps/model_argument.h"
#include "apps/run_folder.h"
#include "apps/run_options.h"
#include "apps/terminal.h"
#include "base/file.h"
#include "data/corpus_list.h"
#include "formats/config.h"
#include "formats/json_text.h"
#include "text/prompt_ids.h"
#include "train/checkpoint.h"
#include "train/train_config.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

constexpr char kOrigin[] = "sft";
constexpr char kCorpus[] = "/conversations", kHeldOut[] = "/conversations-heldout.json";
constexpr int64_t kMostTokens = 4096;
constexpr int64_t kLeastSequence = 256;
constexpr int64_t kMostBatch = 16384;
constexpr int64_t kStepsOfAnEpoch = 16;  // where the batch has room for it
constexpr int64_t kMicroBatch = 8192;
constexpr int64_t kMostWarmup = 50;
constexpr double kPeak = 0.008;  // of whole batches

class Conversations {
 public:
  Conversations(train::ConfigTree& tree, SftRequest request, ThreadPool& threads)
      : tree_(tree), request_(std::move(request)), threads_(threads) {}

  Status add() {
    for (const char* key : {"data", "model.preset", "model.config", "model.init_from"}) {
      if (train::find(tree_, key) == nullptr) continue;
      return invalid_argument(fmt::format(
          "sft: expected no {} in the configuration beside the model and --data, found one", key));
    }
    CACHALOT_RETURN_IF_ERROR(check_model_path(request_.model));
    request_.model = model_path(request_.model);
    CACHALOT_ASSIGN_OR_RETURN(model_, formats::load_config(request_.model));
    set("model.init_from", json::string(request_.model));
    set("tokenizer", json::string(request_.model + "/tokenizer.json"));
    set("run_dir", json::string(run_directory(request_.files.at(0))));
    run_dir_ = text_at("run_dir");
    if (!request_.dry_run && !train::list_checkpoints(run_dir_).empty()) {
      return invalid_argument(fmt::format(
          "{}: expected a directory without a run, found one; train {}/run.toml --resume goes on "
          "with it, --run_dir=DIR begins another",
          run_dir_, shell_word(run_dir_)));
    }
    const std::string folder = run_dir_ + "/data";
    const json::array data = {
        json::object{{"name", "conversations"}, {"path", folder + kCorpus + ".json"}}};
    CACHALOT_RETURN_IF_ERROR(check(data));
    CACHALOT_ASSIGN_OR_RETURN(NewFolder made,
                              request_.dry_run ? NewFolder::temporary() : NewFolder::at(folder));
    CACHALOT_RETURN_IF_ERROR(build(made.path()));
    set("data", data);
    if (corpus_.held_out.num_tokens > 0) {
      set("validation",
          json::array{json::object{{"name", "heldout"}, {"path", folder + kHeldOut}}});
    }
    set_schedule();
    if (request_.dry_run) return {};
    CACHALOT_RETURN_IF_ERROR(write_defaults());
    made.keep();
    return {};
  }

 private:
  // The configuration that the conversations will complete, with anything in their place.
  Status check(const json::array& data) const {
    train::ConfigTree trial = tree_;
    train::set_if_absent(trial, "data", data, kOrigin);
    train::set_if_absent(trial, "schedule.sequence",
                         json::array{json::object{{"from_tokens", 0}, {"sequence_length", 1}}},
                         kOrigin);
    train::set_if_absent(trial, "schedule.batch.first_batch_tokens", 1, kOrigin);
    train::set_if_absent(trial, "schedule.batch.total_tokens", kMostBatch, kOrigin);
    return train::train_config_from(trial).error();
  }

  void set(std::string_view path, json::value value) {
    train::set_if_absent(tree_, path, std::move(value), kOrigin);
  }
  std::string text_at(std::string_view path) const {
    const json::value* value = train::find(tree_, path);
    return value != nullptr && value->is_string() ? std::string(value->get_string())
                                                  : std::string();
  }

  Status build(const std::string& folder) {
    CACHALOT_ASSIGN_OR_RETURN(const text::Tokenizer tokenizer,
                              open_tokenizer(text_at("tokenizer")));
    data::ConversationCorpusOptions& options = request_.corpus;
    CACHALOT_ASSIGN_OR_RETURN(options.conversations.family,
                              text::prompt_family(tokenizer, request_.family));
    options.max_tokens = request_.max_tokens > 0
                             ? request_.max_tokens
                             : std::min(kMostTokens, model_.max_position_embeddings);
    CACHALOT_ASSIGN_OR_RETURN(
        corpus_, data::build_conversation_corpus(tokenizer, request_.files, folder + kCorpus,
                                                 options, threads_));
    print();
    return {};
  }

  void print() const {
    fmt::print("conversations {} rows, {} held out\n", grouped(corpus_.num_rows),
               grouped(corpus_.num_held_out_rows));
    if (corpus_.num_bad_rows > 0) {
      fmt::print("bad rows      {}, left out; {}/data{}-bad-rows.txt names them\n",
                 grouped(corpus_.num_bad_rows), run_dir_, kCorpus);
      for (const std::string& reason : corpus_.bad_rows) fmt::print("  {}\n", printable(reason));
    }
    fmt::print(
        "samples       {}, {} of them thinking; {} tokens, {} to learn; the longest has {}\n",
        grouped(num_samples()), grouped(corpus_.num_thinking_samples),
        grouped(corpus_.training.num_tokens + corpus_.held_out.num_tokens),
        grouped(corpus_.num_targets), grouped(corpus_.longest_sample));
    std::fflush(stdout);
  }

  int64_t num_samples() const {
    return corpus_.training.num_documents + corpus_.held_out.num_documents;
  }

  void set_schedule() {
    const auto fitting = [](int64_t n) {
      return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(n, 1))));
    };
    const int64_t length = std::max(kLeastSequence, fitting(corpus_.longest_sample));
    const int64_t tokens = corpus_.training.num_tokens;
    const json::value* given = train::find(tree_, "schedule.batch.batch_tokens");
    const int64_t batch =
        given != nullptr
            ? given->to_number<int64_t>()
            : std::max(length, std::min(kMostBatch, fitting(tokens / kStepsOfAnEpoch + 1)));
    const int64_t epoch_steps = std::max<int64_t>(1, (tokens + batch - 1) / batch);
    const auto steps = std::max<int64_t>(
        1,
        std::llround(request_.epochs * static_cast<double>(tokens) / static_cast<double>(batch)));
    set("loader.window_packs", std::max<int64_t>(1, tokens / length));  // an epoch
    set("precision", "fp8");
    if (text_at("precision") == "fp8") set("qat", true);
    set("schedule.sequence",
        json::array{json::object{{"from_tokens", 0}, {"sequence_length", length}}});
    set("schedule.batch.first_batch_tokens", batch);
    set("schedule.batch.batch_tokens", batch);
    set("schedule.batch.total_tokens", steps * batch);
    set("schedule.micro_batch_tokens", std::min(kMicroBatch, batch));
    set("schedule.learning_rate.course", "budget");
    // Noise of the gradient falls with the root of the batch, and the step with it.
    set("schedule.learning_rate.peak",
        kPeak * std::sqrt(static_cast<double>(batch) / static_cast<double>(kMostBatch)));
    set("schedule.learning_rate.warmup_steps", std::min(kMostWarmup, steps / 10));
    set("evaluate.every_steps", epoch_steps);
    set("checkpoint.every_steps", epoch_steps);
    set("log.every_steps", std::max<int64_t>(1, epoch_steps / 4));
  }

  // How the model is talked with: as its samples are.
  Status write_defaults() const {
    json::object defaults;
    const std::string given = request_.model + "/generation_config.json";
    std::error_code error;
    if (fs::exists(given, error)) {
      CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(given));
      CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(text, given));
      if (value.is_object()) defaults = value.get_object();
    }
    const std::string& asked = request_.corpus.conversations.effort;
    const bool thinks = 2 * corpus_.num_thinking_samples > num_samples();
    const std::string effort = asked != "auto" ? asked : thinks ? "high" : "none";
    defaults["cachalot"] = json::object{{"effort", effort}};
    return write_file_atomically(run_dir_ + "/generation_config.json",
                                 formats::to_pretty_json(defaults));
  }

  train::ConfigTree& tree_;
  SftRequest request_;
  ThreadPool& threads_;
  formats::ModelConfig model_;
  std::string run_dir_;
  data::ConversationCorpus corpus_;
};

}  // namespace

Status add_conversations(train::ConfigTree& tree, SftRequest request, ThreadPool& threads) {
  return Conversations(tree, std::move(request), threads).add();
}

}  // namespace cachalot::apps
