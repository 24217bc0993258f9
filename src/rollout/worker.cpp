#include "rollout/worker.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "formats/weight_source.h"
#include "post/answer_sampler.h"
#include "rollout/frame_batch.h"
#include "train/checkpoint.h"
#include "train/run_lock.h"

namespace cachalot::rollout {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
constexpr auto kAskAgain = std::chrono::milliseconds(50);
constexpr auto kTryAgain = std::chrono::milliseconds(200);

class Worker {
 public:
  Worker(const WorkerOptions& options, const std::function<bool()>& wants_stop)
      : options_(options),
        wants_stop_(wants_stop),
        trainer_(options.host, options.port, options.key) {}

  Result<WorkerSummary> run() {
    CACHALOT_RETURN_IF_ERROR(create_directories(options_.directory));
    CACHALOT_ASSIGN_OR_RETURN(const train::RunLock lock,
                              train::RunLock::acquire(options_.directory));
    last_answer_ = Clock::now();
    while (!wants_stop_()) {
      const Status status = work();
      if (status.ok()) {
        last_answer_ = Clock::now();
        continue;
      }
      if (status.code() == StatusCode::cancelled) break;
      CACHALOT_RETURN_IF_ERROR(see_to(status));
    }
    return summary_;
  }

 private:
  struct Lease {
    int64_t id = 0;
    int64_t num_sent = 0;  // frames
  };

  // No error: there is a point in trying again.
  Status see_to(const Status& status) {
    leases_.clear();
    pending_.reset();
    batch_.clear();
    if (status.code() == StatusCode::not_found) {  // a lease, or weights, of before
      ++summary_.lost;
      log_warning(status.message());
      last_answer_ = Clock::now();
      return {};
    }
    if (!trainer_.is_away()) return status;
    const double silent = std::chrono::duration<double>(Clock::now() - last_answer_).count();
    if (silent > options_.patience_seconds) {
      return io_error(fmt::format("{}: expected a trainer, found none for {:.0f} s; the last: {}",
                                  trainer_.name(), silent, status.message()));
    }
    std::this_thread::sleep_for(kTryAgain);
    return {};
  }

  // From one offer until nothing of its step is free, or nothing at all.
  Status work() {
    if (!pending_) {
      CACHALOT_ASSIGN_OR_RETURN(pending_, trainer_.claim(options_.name));
    }
    if (!pending_) {
      std::this_thread::sleep_for(kAskAgain);
      return {};
    }
    const Offer offer = *pending_;
    CACHALOT_ASSIGN_OR_RETURN(const post::RolloutPlan plan, trainer_.plan(offer));
    CACHALOT_RETURN_IF_ERROR(see_to_weights(offer, plan));
    post::RolloutLog log = post::RolloutLog::mirror(
        post::log_head(plan, config_),
        [&](std::span<const std::byte> payload) { return queue(log, payload); });
    post::RolloutOptions options;
    options.next_group = [&]() -> Result<std::optional<int64_t>> {
      if (!pending_) {
        CACHALOT_ASSIGN_OR_RETURN(pending_, trainer_.claim(options_.name));
      }
      // Of another step: when this one's answers have ended.
      if (!pending_ || pending_->plan_hash != offer.plan_hash) return std::optional<int64_t>();
      CACHALOT_RETURN_IF_ERROR(begin(*pending_, log));
      const int64_t group = pending_->group;
      pending_.reset();
      return std::optional(group);
    };
    if (offer.asks_turns) {
      options.on_turn = [&](int64_t answer,
                            const post::RolloutAnswer&) -> Result<std::vector<int32_t>> {
        CACHALOT_RETURN_IF_ERROR(send());
        return trainer_.turn(leases_.at(answer / plan.group_size).id, answer);
      };
    }
    told_ = {};
    Status sent;
    const Result<bool> is_whole = sampler_->sample(plan, log, std::move(options), [&] {
      sent = send();
      return !sent.ok() || wants_stop_();
    });
    summary_.sampled_tokens += sampler_->counts().sampled_tokens;
    if (!is_whole) return is_whole.error();
    CACHALOT_RETURN_IF_ERROR(sent);
    CACHALOT_RETURN_IF_ERROR(send());
    if (!*is_whole) {  // stopped: others need not wait for the leases to run out
      if (pending_) CACHALOT_RETURN_IF_ERROR(trainer_.give_back(pending_->lease));
      for (const auto& [group, lease] : leases_)
        CACHALOT_RETURN_IF_ERROR(trainer_.give_back(lease.id));
    }
    leases_.clear();
    return {};
  }

  Status begin(const Offer& offer, post::RolloutLog& log) {
    CACHALOT_ASSIGN_OR_RETURN(const std::string batch, trainer_.logged(offer.lease));
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<SentFrame> frames, frames_of_batch(batch));
    for (const SentFrame& frame : frames) CACHALOT_RETURN_IF_ERROR(log.add(frame.payload));
    leases_[offer.group] = {offer.lease, 0};
    ++summary_.groups;
    return {};
  }

  Status queue(const post::RolloutLog& log, std::span<const std::byte> payload) {
    CACHALOT_ASSIGN_OR_RETURN(const post::RolloutLog::Place place, log.place_of(payload));
    Lease& lease = leases_.at(place.group);
    put_frame(batch_, lease.id, lease.num_sent++, payload);
    return {};
  }

  Status send() {
    if (batch_.empty()) return {};
    const std::string batch = std::exchange(batch_, {});
    const post::RolloutCounts& now = sampler_->counts();
    const post::RolloutCounts before = std::exchange(told_, now);
    return trainer_.send(batch, now.drafted - before.drafted, now.accepted - before.accepted);
  }

  // The model of the offer's version, with room for the plan's answers.
  Status see_to_weights(const Offer& offer, const post::RolloutPlan& plan) {
    int64_t longest = 0;
    for (const post::RolloutGroup& group : plan.groups) {
      longest = std::max(longest, static_cast<int64_t>(group.prompt.size()) + group.max_new_tokens);
    }
    if (sampler_ && offer.manifest_sha256 == manifest_ && longest <= longest_ &&
        plan.num_drafts <= max_drafts_)
      return {};
    const std::string kept = train::checkpoint_directory(options_.directory, offer.weights_version);
    const Result<std::string> manifest = read_text_file(kept + "/manifest.json");
    if (!manifest || sha256_hex(*manifest) != offer.manifest_sha256)
      CACHALOT_RETURN_IF_ERROR(fetch(offer, kept));
    CACHALOT_ASSIGN_OR_RETURN(const train::Checkpoint checkpoint, train::Checkpoint::open(kept));
    CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                              formats::WeightSource::open(kept));
    CACHALOT_ASSIGN_OR_RETURN(const train::ParameterStore parameters,
                              train::ParameterStore::from_checkpoint(source));
    CACHALOT_ASSIGN_OR_RETURN(const train::TrainingPrecision precision,
                              train::parse_training_precision(offer.precision, offer.qat));
    config_ = source.config();
    // A run without one has no plans that need it.
    const Result<std::string> tokenizer = read_text_file(kept + "/tokenizer.json");
    if (!sampler_ || plan.num_drafts > max_drafts_) {
      max_drafts_ = plan.num_drafts;
      sampler_.emplace(
          post::EngineSamplerOptions{options_.max_sequences, max_drafts_, options_.threads});
    }
    longest_ = std::max(longest_, longest);
    manifest_ = offer.manifest_sha256;
    return sampler_->set_weights({.config = config_,
                                  .parameters = parameters,
                                  .precision = precision,
                                  .tokenizer_json = tokenizer ? *tokenizer : std::string(),
                                  .version = offer.weights_version,
                                  .max_context_tokens = longest_});
  }

  Status fetch(const Offer& offer, const std::string& kept) {
    std::error_code error;
    const std::string aside = options_.directory + "/incoming";
    fs::remove_all(aside, error);
    CACHALOT_RETURN_IF_ERROR(create_directories(aside));
    CACHALOT_RETURN_IF_ERROR(trainer_.fetch_weights(offer, aside));
    // Those of before are of no use any more.
    fs::remove_all(options_.directory + "/checkpoints", error);
    CACHALOT_RETURN_IF_ERROR(create_directories(options_.directory + "/checkpoints"));
    fs::rename(aside, kept, error);
    if (error) return io_error(fmt::format("{}: rename: {}", kept, error.message()));
    ++summary_.weights_fetched;
    return {};
  }

  const WorkerOptions& options_;
  const std::function<bool()>& wants_stop_;
  TrainerClient trainer_;
  WorkerSummary summary_;
  Clock::time_point last_answer_;
  std::optional<Offer> pending_;
  std::map<int64_t, Lease> leases_;  // by group
  std::string batch_;                // frames that have not been sent
  post::RolloutCounts told_;         // of the step, to the trainer
  formats::ModelConfig config_;
  std::optional<post::EngineSampler> sampler_;
  std::string manifest_;  // of the sampler's weights
  int64_t longest_ = 0;
  int64_t max_drafts_ = 0;
};

}  // namespace

Result<WorkerSummary> run_worker(const WorkerOptions& options,
                                 const std::function<bool()>& wants_stop) {
  return Worker(options, wants_stop).run();
}

}  // namespace cachalot::rollout
