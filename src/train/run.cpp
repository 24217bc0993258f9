#include "train/run.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <utility>

#include "base/file.h"
#include "data/fim.h"
#include "data/open_dataset.h"
#include "data/tokenize_corpus.h"
#include "formats/weight_source.h"
#include "ops/rows/rows.h"
#include "text/chat_literals.h"
#include "text/dsml_arguments.h"
#include "text/tokenizer.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/memory_plan.h"
#include "train/run_lock.h"
#include "train/run_metrics.h"
#include "train/sample_text.h"
#include "train/spectrum_metrics.h"
#include "train/tensorboard_writer.h"
#include "train/trainer_state.h"
#include "train/training_flops.h"

namespace cachalot::train {
namespace {

using Clock = std::chrono::steady_clock;

constexpr float kProvokedScale = 50;
constexpr size_t kLastSteps = 10;  // whose mean is a run's last loss
constexpr int64_t kSamplePromptTokens = 16;
constexpr char kValidation[] = "validation/";  // begins the names of an evaluation's values
constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;

Result<data::Dataset> open_entry(const DataEntry& entry, int64_t vocab_size) {
  CACHALOT_ASSIGN_OR_RETURN(data::Dataset dataset,
                            data::open_dataset(entry.name, entry.path, entry.format, vocab_size));
  if (dataset.vocab_size() > vocab_size) {
    return invalid_argument(
        fmt::format("data \"{}\": expected ids below {}, the model's "
                    "vocab_size, found a vocabulary of {}",
                    entry.name, vocab_size, dataset.vocab_size()));
  }
  return dataset;
}

TokenBytes token_bytes(const text::Tokenizer& tokenizer, int64_t vocab_size) {
  TokenBytes bytes(static_cast<size_t>(vocab_size), 0);
  for (int32_t id = 0; id < std::min<int64_t>(vocab_size, tokenizer.vocab_size()); ++id) {
    if (const Result<std::string_view> text = tokenizer.token_bytes(id))
      bytes[id] = static_cast<int32_t>(text->size());
  }
  for (const text::AddedToken& token : tokenizer.added_tokens()) {
    if (token.id < vocab_size) bytes[token.id] = 0;
  }
  return bytes;
}

class Run {
 public:
  Run(device::ExecContext& ctx, const TrainConfig& config, const RunRequest& request,
      RunObserver& observer)
      : ctx_(ctx),
        config_(config),
        request_(request),
        observer_(observer),
        detector_(config.anticipation.detector),
        peak_gflops_(machine_peak_gflops(ctx, config)) {}

  Result<RunSummary> run() {
    const Clock::time_point begin = Clock::now();
    CACHALOT_RETURN_IF_ERROR(open());
    while (true) {
      const int64_t next = trainer_->position().step + 1;
      const int64_t every = config_.log.update_rms_every_steps;
      const bool provoked = next == request_.provoked_step && !trainer_->anticipation().active();
      if (provoked) CACHALOT_RETURN_IF_ERROR(scale_head(kProvokedScale));
      const Clock::time_point start = Clock::now();
      CACHALOT_ASSIGN_OR_RETURN(const std::optional<StepResult> result,
                                trainer_->step(every > 0 && next % every == 0));
      if (provoked) CACHALOT_RETURN_IF_ERROR(scale_head(1 / kProvokedScale));
      if (!result) {
        summary_.budget_spent = true;
        break;
      }
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      CACHALOT_ASSIGN_OR_RETURN(const bool rolled_back, after_step(*result, seconds));
      if (rolled_back) continue;
      if (next == request_.stop_at_step || observer_.wants_stop()) break;
    }
    if (last_evaluated_ != trainer_->position().step) CACHALOT_RETURN_IF_ERROR(evaluate_all());
    if (last_saved_ != trainer_->position().step) CACHALOT_RETURN_IF_ERROR(save());
    summary_.step = trainer_->position().step;
    summary_.tokens_seen = trainer_->position().tokens_seen;
    summary_.budget_spent |= summary_.tokens_seen >= config_.schedule.batch.total_tokens;
    summary_.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    summary_.checkpoint = checkpoint_directory(config_.run_dir, summary_.step);
    CACHALOT_RETURN_IF_ERROR(summarize_losses());
    return std::move(summary_);
  }

 private:
  // Everything that the configuration names, and the state to go on from.
  Status open() {
    CACHALOT_ASSIGN_OR_RETURN(model_, model_config(config_));
    CACHALOT_RETURN_IF_ERROR(create_directories(config_.run_dir));
    CACHALOT_ASSIGN_OR_RETURN(lock_, RunLock::acquire(config_.run_dir));
    if (!config_.tokenizer.empty()) {
      CACHALOT_ASSIGN_OR_RETURN(tokenizer_json_,
                                read_text_file(config_.tokenizer, kMaxTokenizerBytes));
      CACHALOT_ASSIGN_OR_RETURN(text::Tokenizer tokenizer,
                                text::Tokenizer::from_json(tokenizer_json_, config_.tokenizer));
      tokenizer_.emplace(std::move(tokenizer));
      token_bytes_ = token_bytes(*tokenizer_, model_.vocab_size);
      tokenizer_fingerprint_ = data::tokenizer_fingerprint(*tokenizer_);
      tokenizer_origin_ = config_.tokenizer;
    }
    const std::string generation_config = config_.run_dir + "/generation_config.json";
    if (std::error_code error; std::filesystem::exists(generation_config, error)) {
      CACHALOT_ASSIGN_OR_RETURN(generation_config_json_, read_text_file(generation_config));
    }
    CACHALOT_ASSIGN_OR_RETURN(StepStream stream, open_stream());
    for (const DataEntry& entry : config_.validation) {
      CACHALOT_ASSIGN_OR_RETURN(data::Dataset dataset, open_entry(entry, model_.vocab_size));
      CACHALOT_RETURN_IF_ERROR(check_tokenizer("validation", entry.name, dataset));
      validation_.push_back(std::move(dataset));
    }
    CACHALOT_ASSIGN_OR_RETURN(ParameterStore parameters, starting_parameters());
    TrainerConfig trainer;
    CACHALOT_ASSIGN_OR_RETURN(trainer.precision,
                              parse_training_precision(config_.precision, config_.qat));
    trainer.optimizer = config_.optimizer;
    trainer.optimizer.grouping = grouping_of(config_, model_);
    trainer.balance_alpha = static_cast<float>(config_.losses.balance_alpha);
    trainer.bias_update_rate = static_cast<float>(config_.losses.bias_update_rate);
    trainer.indexer_loss = static_cast<float>(config_.losses.indexer);
    CACHALOT_ASSIGN_OR_RETURN(trainer.recompute, recompute_plan(config_));
    trainer.anticipation_delta_steps = config_.anticipation.delta_steps;
    CACHALOT_ASSIGN_OR_RETURN(
        trainer_, Trainer::create(ctx_, model_, std::move(parameters), std::move(stream), trainer));
    return start_or_resume();
  }

  // All ids mean what those before do.
  Status check_tokenizer(std::string_view key, const std::string& name,
                         const data::Dataset& dataset) {
    const uint64_t found = dataset.tokenizer_fingerprint();
    if (found == 0 || found == tokenizer_fingerprint_) return {};
    const std::string what = fmt::format("{} \"{}\"", key, name);
    if (tokenizer_fingerprint_ != 0) {
      return invalid_argument(
          fmt::format("{}: expected a corpus of the tokenizer of {}, {:016x}, found one of {:016x}",
                      what, tokenizer_origin_, tokenizer_fingerprint_, found));
    }
    tokenizer_fingerprint_ = found;
    tokenizer_origin_ = what;
    return {};
  }

  Result<StepStream> open_stream() {
    std::vector<data::MixEntry> mix;
    for (const DataEntry& entry : config_.data) {
      CACHALOT_ASSIGN_OR_RETURN(data::Dataset dataset, open_entry(entry, model_.vocab_size));
      CACHALOT_RETURN_IF_ERROR(check_tokenizer("data", entry.name, dataset));
      corpus_tokens_ += dataset.num_tokens();
      if (config_.loader.fim_rate == 0 && dataset.num_tokens() <= dataset.num_documents()) {
        return invalid_argument(fmt::format(
            "data \"{}\": expected documents of two tokens or more, found {} tokens in {} "
            "documents: no position has a target",
            entry.name, dataset.num_tokens(), dataset.num_documents()));
      }
      mix.push_back({std::move(dataset), entry.weight});
    }
    data::LoaderConfig loader;
    loader.window_packs = config_.loader.window_packs;
    loader.seed = config_.seed;
    loader.shuffle = config_.loader.shuffle;
    loader.fim_rate = config_.loader.fim_rate;
    loader.fim_keep_first = config_.loader.fim_keep_first;
    loader.fim_keep_last = config_.loader.fim_keep_last;
    if (loader.fim_rate > 0) {
      if (!tokenizer_)
        return invalid_argument("loader.fim_rate: expected a tokenizer for its tokens, found none");
      CACHALOT_ASSIGN_OR_RETURN(loader.fim_tokens, data::fim_tokens(*tokenizer_));
    }
    return StepStream::create(loader, std::move(mix), config_.schedule, config_.micro_batch_tokens);
  }

  Result<ParameterStore> starting_parameters() {
    if (config_.model.init_from.empty()) return initial_parameters(model_, config_.init);
    CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                              formats::WeightSource::open(config_.model.init_from));
    CACHALOT_ASSIGN_OR_RETURN(ParameterStore given, ParameterStore::from_checkpoint(source));
    // The model may have been changed by fields of the configuration: its shapes must still be the
    // checkpoint's.
    ParameterStore own = initial_parameters(model_, config_.init);
    CACHALOT_RETURN_IF_ERROR(own.check_shapes(given, config_.model.init_from));
    return given;
  }

  Status start_or_resume() {
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<Checkpoint> newest,
                              open_newest_checkpoint(config_.run_dir));
    if (newest && !request_.resume) {
      return invalid_argument(
          fmt::format("{}: expected a directory without a run (or --resume), found a checkpoint of "
                      "step {}",
                      config_.run_dir, newest->step()));
    }
    if (newest)
      CACHALOT_RETURN_IF_ERROR(restore_trainer(*newest, *trainer_, detector_, &num_rollbacks_));
    // What is refused leaves the run as it was.
    CACHALOT_RETURN_IF_ERROR(
        write_file_atomically(config_.run_dir + "/run.toml", resolved_toml(config_)));
    if (newest) {
      CACHALOT_RETURN_IF_ERROR(set_aside_checkpoints_after(config_.run_dir, newest->step()));
      // A kill may have come between: a rollback must find the checkpoints of an undisturbed run.
      CACHALOT_RETURN_IF_ERROR(prune());
    }
    const int64_t step = trainer_->position().step;
    CACHALOT_ASSIGN_OR_RETURN(const std::optional<int64_t> untold_spike, find_untold_spike());
    CACHALOT_ASSIGN_OR_RETURN(MetricsLog log,
                              MetricsLog::open(log_path(), untold_spike ? *untold_spike : step));
    log_.emplace(std::move(log));
    CACHALOT_RETURN_IF_ERROR(untold_spike ? tell_rollback(*untold_spike, step)
                                          : start_tensorboard(step));
    if (newest) {
      last_saved_ = step;
      CACHALOT_RETURN_IF_ERROR(find_evaluation(step));
      CACHALOT_RETURN_IF_ERROR(event("resume", newest->directory()));
      return tell_changes(*newest);
    }
    CACHALOT_RETURN_IF_ERROR(tell_budget());
    for (const std::string& note : notes()) observer_.on_event(0, "note", note);
    return config_.anticipation.enabled ? save() : Status();
  }

  Status tell_changes(const Checkpoint& checkpoint) {
    if (checkpoint.config_hash() == config_hash(config_)) return {};
    CACHALOT_ASSIGN_OR_RETURN(const std::string before,
                              read_text_file(checkpoint.directory() + "/run.toml"));
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> differences,
                              differences_from(config_, before));
    return event("changed configuration", fmt::format("{}", fmt::join(differences, "; ")));
  }

  Status tell_budget() const {
    CACHALOT_ASSIGN_OR_RETURN(const MemoryPlan plan, memory_plan(config_));
    observer_.on_budget(
        {plan.total_tokens,
         static_cast<double>(plan.total_tokens) / static_cast<double>(corpus_tokens_),
         plan.seconds(peak_gflops_)});
    return {};
  }

  // From the log, which holds earlier starts too.
  Status summarize_losses() {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<MetricsLine> lines, read_metrics(log_path()));
    std::vector<double> losses;
    for (const MetricsLine& line : lines) {
      for (const auto& [name, value] : line.values) {
        if (name == "loss/lm") losses.push_back(value);
      }
      if (line.values.empty() || !line.values[0].first.starts_with(kValidation)) continue;
      if (summary_.first_validation.empty()) summary_.first_validation = summary_.validation;
      summary_.validation = line.values;
    }
    if (losses.empty()) return {};
    const size_t count = std::min(losses.size(), kLastSteps);
    summary_.first_loss = losses.front();
    summary_.last_loss =
        std::accumulate(losses.end() - static_cast<ptrdiff_t>(count), losses.end(), 0.0) /
        static_cast<double>(count);
    summary_.last_steps = static_cast<int64_t>(count);
    return {};
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> notes = budget_notes(config_);
    const optim::BatchSchedule& batch = config_.schedule.batch;
    if (batch.batch_tokens > corpus_tokens_) {
      notes.push_back(
          fmt::format("a step is larger than all data: schedule.batch.batch_tokens = {}, the "
                      "corpora hold {} tokens",
                      batch.batch_tokens, corpus_tokens_));
    }
    return notes;
  }

  std::string log_path() const { return config_.run_dir + "/metrics.jsonl"; }

  // The step of the spike whose rollback is in the checkpoint but not in the log: a kill came
  // between.
  Result<std::optional<int64_t>> find_untold_spike() const {
    if (num_rollbacks_ == 0 || !std::filesystem::exists(log_path()))
      return std::optional<int64_t>();
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<MetricsLine> lines, read_metrics(log_path()));
    int64_t num_told = 0;
    std::optional<int64_t> spike;
    for (const MetricsLine& line : lines) {
      num_told += line.event == "rollback";
      if (line.event == "spike") spike = line.step;
    }
    return num_told < num_rollbacks_ ? spike : std::nullopt;
  }

  // One that the log holds is not made again.
  Status find_evaluation(int64_t step) {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<MetricsLine> lines, read_metrics(log_path()));
    for (const MetricsLine& line : lines) {
      if (line.step == step && !line.values.empty() &&
          line.values[0].first.starts_with(kValidation))
        last_evaluated_ = step;
    }
    return {};
  }

  Status start_tensorboard(int64_t last_step) {
    if (!config_.log.tensorboard) return {};
    CACHALOT_ASSIGN_OR_RETURN(TensorboardWriter writer,
                              TensorboardWriter::open(config_.run_dir + "/tensorboard", last_step));
    tensorboard_.emplace(std::move(writer));
    return {};
  }

  Status write_values(int64_t step, int64_t tokens, const MetricValues& values) {
    CACHALOT_RETURN_IF_ERROR(log_->write(step, tokens, values));
    return tensorboard_ ? tensorboard_->write(step, values) : Status();
  }

  Status scale_head(float factor) {
    std::vector<float>& head = trainer_->parameters().find("head.weight")->master;
    ops::scale(ctx_, head.data(), static_cast<int64_t>(head.size()), factor);
    return trainer_->model().refresh(ctx_);
  }

  // True: the run has gone back to an earlier step.
  Result<bool> after_step(const StepResult& result, double seconds) {
    const double flops = training_flops_per_token(model_, result.point.sequence_length);
    MetricValues values = step_metrics(result, seconds, flops, peak_gflops_);
    if (config_.log.spectrum_every_steps > 0 &&
        result.step % config_.log.spectrum_every_steps == 0) {
      for (auto& value : spectrum_metrics(ctx_, trainer_->optimizer())) values.push_back(value);
    }
    CACHALOT_RETURN_IF_ERROR(write_values(result.step, result.tokens_seen, values));
    observer_.on_step(result, values);
    if (result.num_targets == 0 && !std::exchange(has_told_no_targets_, true)) {
      CACHALOT_RETURN_IF_ERROR(
          event("no targets",
                "no position of this step has one: it has no loss, nor the later ones "
                "that show none"));
    }
    const std::string spike = result.num_targets == 0
                                  ? std::string()
                                  : detector_.add(result.lm_loss, result.optimizer.grad_norm);
    if (!spike.empty()) {
      CACHALOT_RETURN_IF_ERROR(event("spike", spike));
      if (config_.anticipation.enabled && !result.anticipated) {
        CACHALOT_ASSIGN_OR_RETURN(const bool rolled_back, roll_back(result.step));
        if (rolled_back) return true;
      }
    }
    CACHALOT_RETURN_IF_ERROR(check_losses(result));
    if (config_.evaluate.every_steps > 0 && result.step % config_.evaluate.every_steps == 0)
      CACHALOT_RETURN_IF_ERROR(evaluate_all());
    if (result.step % config_.checkpoint.every_steps == 0) CACHALOT_RETURN_IF_ERROR(save());
    return false;
  }

  // A loss that is no number comes from parameters or data that give no number again: nothing is
  // saved from there on.
  Status check_losses(const StepResult& result) const {
    for (const auto& [name, value] : {std::pair("loss/lm", result.lm_loss),
                                      {"loss/mtp", result.mtp_loss},
                                      {"loss/balance", result.balance_loss},
                                      {"loss/indexer_kl", result.indexer_kl}}) {
      if (std::isfinite(value)) continue;
      return invalid_argument(fmt::format(
          "{}: step {}: {}: expected a finite value, found {}; the last checkpoint is of {}",
          config_.run_dir, result.step, name, value,
          last_saved_ < 0 ? "no step" : fmt::format("step {}", last_saved_)));
    }
    return {};
  }

  // To the newest checkpoint far enough before the spike, or the oldest there is.
  Result<bool> roll_back(int64_t spike_step) {
    const TrainConfig::Anticipation& a = config_.anticipation;
    const std::vector<int64_t> steps = list_checkpoints(config_.run_dir);
    if (steps.empty()) return false;
    int64_t target = steps.front();
    for (const int64_t step : steps) {
      if (step <= spike_step - a.delta_steps - a.rollback_margin_steps) target = step;
    }
    CACHALOT_ASSIGN_OR_RETURN(const Checkpoint checkpoint,
                              Checkpoint::open(checkpoint_directory(config_.run_dir, target)));
    CACHALOT_RETURN_IF_ERROR(restore_trainer(checkpoint, *trainer_, detector_, &num_rollbacks_));
    trainer_->anticipate(a.hold_steps);
    ++num_rollbacks_;
    CACHALOT_RETURN_IF_ERROR(drop_checkpoints_after(config_.run_dir, target));
    CACHALOT_RETURN_IF_ERROR(save());
    CACHALOT_RETURN_IF_ERROR(tell_rollback(spike_step, target));
    return true;
  }

  Status tell_rollback(int64_t spike_step, int64_t target) {
    CACHALOT_RETURN_IF_ERROR(log_->rewind(target));
    CACHALOT_RETURN_IF_ERROR(start_tensorboard(target));
    return event("rollback", fmt::format("from step {} to {}, routing by choices of {} steps "
                                         "before for {} steps",
                                         spike_step, target, config_.anticipation.delta_steps,
                                         config_.anticipation.hold_steps));
  }

  Status evaluate_all() {
    last_evaluated_ = trainer_->position().step;
    const StreamPosition& position = trainer_->position();
    MetricValues values;
    for (size_t i = 0; i < validation_.size(); ++i) {
      const std::string name = kValidation + config_.validation[i].name;
      EvaluationConfig evaluation;
      evaluation.sequence_length =
          optim::sequence_length(config_.schedule.sequence, position.tokens_seen);
      evaluation.max_tokens = config_.evaluate.max_tokens;
      evaluation.micro_batch_tokens = config_.micro_batch_tokens;
      evaluation.dense_attention = trainer_->dense_attention();
      CACHALOT_ASSIGN_OR_RETURN(
          const Evaluation result,
          evaluate(ctx_, trainer_->model(), validation_[i], token_bytes_, evaluation));
      if (result.num_targets == 0) {
        CACHALOT_RETURN_IF_ERROR(event(name, "no value: no position has a target"));
        continue;
      }
      values.emplace_back(name + "/loss", result.loss);
      if (!token_bytes_.empty()) values.emplace_back(name + "/bits_per_byte", result.bits_per_byte);
    }
    if (values.empty()) return {};
    for (const auto& [name, value] : values)
      observer_.on_event(position.step, name, fmt::format("{:.4f}", value));
    CACHALOT_RETURN_IF_ERROR(show_sample());
    return write_values(position.step, position.tokens_seen, values);
  }

  Status show_sample() {
    if (!tokenizer_ || config_.evaluate.sample_tokens == 0) return {};
    const data::DocumentPlace place = validation_[0].place(0);
    const data::TokenSource& source = validation_[0].shard(place.shard);
    CACHALOT_ASSIGN_OR_RETURN(const int64_t length, prompt_length(source, place.document));
    std::vector<int32_t> prompt(static_cast<size_t>(length));
    if (prompt.empty()) return {};
    CACHALOT_RETURN_IF_ERROR(source.read(place.document, 0, prompt));
    SampleOptions options;
    options.num_tokens = config_.evaluate.sample_tokens;
    options.end_token = tokenizer_->token_id(text::kEos)
                            .value_or(static_cast<int32_t>(model_.eos_token_id.front()));
    options.dense_attention = trainer_->dense_attention();
    options.seed = config_.seed;
    options.index = trainer_->position().step;
    const std::vector<int32_t> made = sample_continuation(ctx_, trainer_->model(), prompt, options);
    return event("sample", fmt::format("{} [...] {}", text_of(prompt), text_of(made)));
  }

  // A document's beginning; where tokens have weights, what stands before the first target.
  static Result<int64_t> prompt_length(const data::TokenSource& source, int64_t document) {
    const int64_t length = source.document_length(document);
    if (!source.has_weights()) return std::min(length, kSamplePromptTokens);
    std::vector<float> weights(static_cast<size_t>(length));
    CACHALOT_RETURN_IF_ERROR(source.read_weights(document, 0, weights));
    const auto first = std::ranges::find_if(weights, [](float weight) { return weight > 0; });
    return first - weights.begin();
  }

  // Control tokens are no text, and ids that the tokenizer does not have are none either; half
  // characters become U+FFFD.
  std::string text_of(std::span<const int32_t> ids) const {
    std::string out;
    for (const int32_t id : ids) {
      if (token_bytes_[static_cast<size_t>(id)] > 0) out += *tokenizer_->token_bytes(id);
    }
    return text::valid_utf8(out);
  }

  Status save() {
    const int64_t step = trainer_->position().step;
    if (log_) CACHALOT_RETURN_IF_ERROR(log_->sync());
    TrainerState state(*trainer_, detector_, num_rollbacks_);
    std::vector<optim::StateArray> arrays = trainer_->optimizer().state();
    for (optim::StateArray& array : state.arrays()) arrays.push_back(std::move(array));
    CACHALOT_RETURN_IF_ERROR(save_checkpoint(
        config_.run_dir,
        {model_, trainer_->parameters(), std::move(arrays), state.fields(), resolved_toml(config_),
         tokenizer_json_, step, config_hash(config_), generation_config_json_}));
    last_saved_ = step;
    observer_.on_event(step, "checkpoint", checkpoint_directory(config_.run_dir, step));
    return prune();
  }

  Status prune() {
    return prune_checkpoints(config_.run_dir, config_.checkpoint.keep_last,
                             config_.checkpoint.keep_every_steps);
  }

  Status event(std::string_view name, const std::string& detail) {
    const int64_t step = trainer_->position().step;
    observer_.on_event(step, name, detail);
    return log_->write_event(step, name, detail);
  }

  device::ExecContext& ctx_;
  const TrainConfig& config_;
  const RunRequest& request_;
  RunObserver& observer_;
  std::optional<RunLock> lock_;
  formats::ModelConfig model_;
  std::string tokenizer_json_;
  std::string generation_config_json_;  // RUN/generation_config.json, for the checkpoints
  std::optional<text::Tokenizer> tokenizer_;
  uint64_t tokenizer_fingerprint_ = 0;  // that the corpora so far have; 0: none says
  std::string tokenizer_origin_;        // what said it
  int64_t corpus_tokens_ = 0;
  RunSummary summary_;
  TokenBytes token_bytes_;
  std::vector<data::Dataset> validation_;
  std::unique_ptr<Trainer> trainer_;
  SpikeDetector detector_;
  double peak_gflops_;
  std::optional<MetricsLog> log_;
  std::optional<TensorboardWriter> tensorboard_;
  int64_t num_rollbacks_ = 0;
  int64_t last_saved_ = -1;
  int64_t last_evaluated_ = -1;
  bool has_told_no_targets_ = false;
};

}  // namespace

Result<RunSummary> run_training(device::ExecContext& ctx, const TrainConfig& config,
                                const RunRequest& request, RunObserver& observer) {
  return Run(ctx, config, request, observer).run();
}

}  // namespace cachalot::train
