// A trainer that listens and workers that sample for it: the log is the one that an engine in the
// trainer's process writes, whoever samples and however often they die.
#include "rollout/hub.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "base/file.h"
#include "rollout/worker.h"
#include "rollout_testing.h"
#include "train/checkpoint.h"
#include "train/run_lock.h"

namespace cachalot::rollout {
namespace {

using post::AnswerEnd;
using post::RolloutAnswer;
using post::RolloutLog;
using post::RolloutPlan;
using post::testing::expect_same;
using post::testing::Policy;
using post::testing::small_plan;

// Runs until its trainer is through, or it is told to stop.
class WorkerThread {
 public:
  explicit WorkerThread(WorkerOptions options)
      : options_(std::move(options)),
        thread_([this] { result_ = run_worker(options_, [this] { return stops_.load(); }); }) {}
  ~WorkerThread() { stop(); }
  void stop() {
    stops_ = true;
    if (thread_.joinable()) thread_.join();
  }
  const Result<WorkerSummary>& wait() {
    if (thread_.joinable()) thread_.join();
    return result_;
  }

 private:
  WorkerOptions options_;
  std::atomic<bool> stops_ = false;
  Result<WorkerSummary> result_ = io_error("it has not ended");
  std::thread thread_;
};

class HubTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }
  RolloutLog open_log(const std::string& name, const RolloutPlan& plan) {
    return RolloutLog::open(path(name), post::log_head(plan, policy_.config())).value();
  }
  post::SamplerWeights weights(int64_t version) {
    return {.config = policy_.config(),
            .parameters = policy_.trainer().parameters(),
            .precision = train::TrainingPrecision::fp4_qat(),
            .tokenizer_json = {},
            .version = version,
            .max_context_tokens = 256};
  }
  RolloutLog expected_log(const RolloutPlan& plan, const post::OnTurn& on_turn = {}) {
    post::EngineSampler sampler({.max_sequences = 6, .max_drafts = 3, .threads = 1});
    EXPECT_TRUE(sampler.set_weights(weights(plan.weights_version)).ok());
    RolloutLog log = open_log(fmt::format("expected-{}", plan.weights_version), plan);
    EXPECT_TRUE(sampler.sample(plan, log, on_turn, {}).value());
    return log;
  }
  std::unique_ptr<Hub> hub(double lease_seconds = 60, const std::string& keys = "") {
    HubOptions options;
    options.directory = path("weights");
    options.lease_seconds = lease_seconds;
    if (!keys.empty()) options.keys = server::ApiKeys::parse(keys, "keys").value();
    return Hub::listen(std::move(options)).value();
  }
  WorkerOptions worker(const Hub& hub, const std::string& name) {
    WorkerOptions options;
    options.port = hub.port();
    options.directory = path("worker-" + name);
    options.name = name;
    options.max_sequences = 5;
    options.threads = 1;
    options.patience_seconds = 20;
    return options;
  }

  formats::TemporaryDirectory directory_{"hub"};
  Policy policy_{train::TrainingPrecision::fp4_qat()};
};

// Texts, log-probabilities, allowed sets and experts, with drafts and turns; over two versions of
// the weights, each of which a worker fetches once.
TEST_F(HubTest, AnyNumberOfWorkersWriteTheLogOfAnEngineInPlace) {
  RolloutPlan plan = small_plan(4, 3, 30);
  plan.num_drafts = 2;
  for (int32_t id = 2; id < 20; ++id) plan.end_tokens.push_back(id);
  const auto on_turn = [](int64_t, const RolloutAnswer& so_far) -> Result<std::vector<int32_t>> {
    const int64_t turns = std::count(so_far.is_sampled.begin(), so_far.is_sampled.end(), false) / 2;
    if (turns == 2) return std::vector<int32_t>();
    return std::vector<int32_t>{90, static_cast<int32_t>(91 + turns)};
  };
  for (const int num_workers : {1, 3}) {
    auto hub = this->hub();
    std::vector<std::unique_ptr<WorkerThread>> workers;
    for (int i = 0; i < num_workers; ++i) {
      workers.push_back(
          std::make_unique<WorkerThread>(worker(*hub, fmt::format("{}-{}", num_workers, i))));
    }
    for (const int64_t version : {0, 1}) {
      if (version == 1) {
        for (train::Parameter& p : policy_.trainer().parameters().parameters())
          for (float& x : p.master) x *= 1.01f;
      }
      plan.weights_version = version;
      plan.step = 5 + version;
      ASSERT_TRUE(hub->set_weights(weights(version)).ok());
      RolloutLog log = open_log(fmt::format("log-{}-{}", num_workers, version), plan);
      const Result<bool> is_whole = hub->sample(plan, log, on_turn, {});
      ASSERT_TRUE(is_whole.has_value()) << is_whole.error().message();
      EXPECT_TRUE(*is_whole);
      int64_t sampled = 0, given = 0;
      for (const RolloutAnswer& answer : log.answers()) {
        sampled += answer.num_sampled();
        given += static_cast<int64_t>(answer.ids.size()) - answer.num_sampled();
      }
      EXPECT_GT(given, 0);
      EXPECT_EQ(hub->counts().sampled_tokens, sampled);
      EXPECT_GT(hub->counts().drafted, 0);
      expect_same(log, expected_log(plan, on_turn), fmt::format("{} workers", num_workers));
    }
    hub->finish();
    int64_t groups = 0;
    for (const auto& thread : workers) {
      const Result<WorkerSummary>& summary = thread->wait();
      ASSERT_TRUE(summary.has_value()) << summary.error().message();
      groups += summary->groups;
      EXPECT_LE(summary->weights_fetched, 2);
      EXPECT_EQ(summary->lost, 0);
    }
    EXPECT_EQ(groups, 8);
    for (train::Parameter& p : policy_.trainer().parameters().parameters())
      for (float& x : p.master) x /= 1.01f;
  }
}

// Stopped in the middle: what is in the log is not sampled again.
TEST_F(HubTest, AWorkerThatEndsAndATrainerThatEndsAreGoneOnFrom) {
  const RolloutPlan plan = small_plan(3, 3, 40);
  const RolloutLog expected = expected_log(plan);
  int64_t total = 0;
  for (const RolloutAnswer& answer : expected.answers()) total += answer.num_sampled();
  uint16_t port = 0;
  int64_t sampled = 0;
  std::unique_ptr<WorkerThread> patient;
  for (int trainer = 0;; ++trainer) {
    HubOptions options;
    options.directory = path("weights");
    options.port = port;
    auto hub = Hub::listen(std::move(options)).value();
    port = hub->port();
    ASSERT_TRUE(hub->set_weights(weights(0)).ok());
    RolloutLog log = open_log("log", plan);
    if (patient == nullptr) patient = std::make_unique<WorkerThread>(worker(*hub, "patient"));
    // Another one that leaves after some tokens.
    auto leaving = std::make_unique<WorkerThread>(worker(*hub, "leaving"));
    const int64_t before = log.recovered_tokens();
    int looks = 0;
    const Result<bool> is_whole = hub->sample(plan, log, {}, [&] {
      if (++looks == 3) leaving->stop();
      return trainer < 3 && looks == 6;
    });
    ASSERT_TRUE(is_whole.has_value()) << is_whole.error().message();
    sampled += hub->counts().sampled_tokens;
    int64_t now = 0;
    for (const RolloutAnswer& answer : log.answers()) now += answer.num_sampled();
    EXPECT_EQ(now, before + hub->counts().sampled_tokens);
    if (!*is_whole) continue;
    hub->finish();
    hub.reset();
    expect_same(log, expected, "");
    EXPECT_EQ(sampled, total);
    break;
  }
  const Result<WorkerSummary>& summary = patient->wait();
  ASSERT_TRUE(summary.has_value()) << summary.error().message();
  EXPECT_EQ(summary->weights_fetched, 1);
}

TEST_F(HubTest, WhatIsWrongIsNamed) {
  const auto error = [](WorkerOptions options) {
    const Result<WorkerSummary> summary = run_worker(options, [] { return false; });
    return summary ? "" : summary.error().message();
  };
  {
    auto hub = this->hub(60, "sk-0123456789 name=one");
    EXPECT_NE(error(worker(*hub, "keyless")).find("a key of this trainer"), std::string::npos);
    WorkerOptions known = worker(*hub, "known");
    known.key = "sk-0123456789";
    hub->finish();
    EXPECT_EQ(error(known), "");
  }
  auto hub = this->hub();
  WorkerOptions options = worker(*hub, "impatient");
  options.patience_seconds = 0.3;
  hub.reset();
  const std::string alone = error(options);
  EXPECT_NE(alone.find("expected a trainer, found none"), std::string::npos) << alone;
  EXPECT_NE(alone.find("refused"), std::string::npos) << alone;

  // Weights that are not what their digest says.
  hub = this->hub();
  const RolloutPlan plan = small_plan(1, 2, 4);
  ASSERT_TRUE(hub->set_weights(weights(0)).ok());
  const std::string file = train::checkpoint_directory(path("weights"), 0) + "/model.safetensors";
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary)
      .seekp(-3, std::ios::end)
      .put('x');
  RolloutLog log = open_log("log", plan);
  std::string found;
  std::atomic<bool> is_over = false;
  std::thread thread([&] {
    found = error(worker(*hub, "careful"));
    is_over = true;
  });
  ASSERT_FALSE(hub->sample(plan, log, {}, [&] { return is_over.load(); }).value());
  thread.join();
  EXPECT_NE(found.find("model.safetensors: expected SHA-256"), std::string::npos) << found;

  // A directory that another worker has, and one that cannot be written.
  options = worker(*hub, "second");
  ASSERT_TRUE(create_directories(options.directory).ok());
  const auto lock = train::RunLock::acquire(options.directory);
  ASSERT_TRUE(lock.has_value());
  EXPECT_NE(error(options).find(options.directory), std::string::npos);
  options.directory = file + "/below";
  EXPECT_NE(error(options).find(file), std::string::npos);
}

// A worker that is silent loses its group to one that asks.
TEST_F(HubTest, ASlowWorkersGroupIsGoneOnWithByAnother) {
  const RolloutPlan plan = small_plan(2, 3, 20);
  auto hub = this->hub(0.05);
  ASSERT_TRUE(hub->set_weights(weights(0)).ok());
  RolloutLog log = open_log("log", plan);
  TrainerClient silent("127.0.0.1", hub->port(), "");
  std::unique_ptr<WorkerThread> lively;
  std::optional<Offer> offer;
  const Result<bool> is_whole = hub->sample(plan, log, {}, [&] {
    if (!offer) {
      offer = silent.claim("silent").value();
    } else if (lively == nullptr) {
      lively = std::make_unique<WorkerThread>(worker(*hub, "lively"));
    }
    return false;
  });
  ASSERT_TRUE(is_whole.value());
  EXPECT_GE(hub->counts().taken_over, 1);
  EXPECT_EQ(silent.logged(offer->lease).error().code(), StatusCode::not_found);
  expect_same(log, expected_log(plan), "");
  hub->finish();
}

}  // namespace
}  // namespace cachalot::rollout
