// Whole training runs: a provoked spike is found, gone back from and bridged; a run goes on from
// its checkpoints.
#include "train/run.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/file.h"
#include "base/test_data.h"
#include "data/data_testing.h"
#include "data/token_shard.h"
#include "formats/safetensors.h"
#include "text/tokenizer.h"
#include "train/checkpoint.h"
#include "train/run_lock.h"

namespace cachalot::train {
namespace {

struct Event {
  int64_t step;
  std::string name;
  std::string detail;
};

class Recorder : public RunObserver {
 public:
  void on_step(const StepResult& result, const MetricValues&) override {
    results.push_back(result);
  }
  void on_event(int64_t step, std::string_view event, std::string_view detail) override {
    events.push_back({step, std::string(event), std::string(detail)});
  }
  int64_t count(const std::string& name) const {
    return std::count_if(events.begin(), events.end(),
                         [&](const Event& event) { return event.name == name; });
  }
  std::vector<StepResult> results;
  std::vector<Event> events;
};

class RunTest : public data::DataFiles {
 protected:
  void SetUp() override {
    data::DataFiles::SetUp();
    std::vector<uint16_t> ids;
    uint32_t state = 1;
    for (int i = 0; i < 40000; ++i) {
      state = i % 9 == 0 ? state * 1664525 + 1013904223 : 5 * state + 1;
      ids.push_back(static_cast<uint16_t>(state % 64));
    }
    std::ofstream(path("bytes.bin"), std::ios::binary)
        .write(reinterpret_cast<const char*>(ids.data()),
               static_cast<std::streamsize>(ids.size() * 2));
  }
  TrainConfig config(const std::string& name, std::vector<std::string> more = {},
                     const std::string& over = "") {
    more.push_back("run_dir=" + path(name));
    more.push_back("data.0.path=" + path("bytes.bin"));
    std::vector<std::string> files = {test_data("train/small.toml")};
    if (!over.empty()) files.push_back(over);
    return read_train_config(files, more).value();
  }
  static std::vector<std::string> anticipation(int margin_steps) {
    return {"anticipation.enabled=true",
            "anticipation.delta_steps=2",
            fmt::format("anticipation.rollback_margin_steps={}", margin_steps),
            "anticipation.hold_steps=8",
            "anticipation.detector.min_steps=8",
            "anticipation.detector.window=20",
            "schedule.attention.dense_tokens=0",
            "schedule.attention.indexer_warmup_tokens=0",
            "schedule.batch.ramp_tokens=0"};
  }
  struct Outcome {
    Status status;
    Recorder recorder;
  };
  static Status run_observed(const TrainConfig& config, const RunRequest& request,
                             RunObserver& observer) {
    ThreadPool pool(2);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, device::machine_isa()};
    return run_training(ctx, config, request, observer).error();
  }
  static Outcome try_run(const TrainConfig& config, const RunRequest& request) {
    Outcome outcome;
    outcome.status = run_observed(config, request, outcome.recorder);
    return outcome;
  }
  static Recorder run(const TrainConfig& config, const RunRequest& request = {}) {
    Outcome outcome = try_run(config, request);
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.message();
    return std::move(outcome.recorder);
  }
  std::string model_bytes(const std::string& name) {
    const int64_t step = list_checkpoints(path(name)).back();
    return read_text_file(checkpoint_directory(path(name), step) + "/model.safetensors").value();
  }
  std::vector<std::string> tensorboard_files(const std::string& name) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path(name) + "/tensorboard"))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
};

// reference/training A4.
TEST_F(RunTest, AProvokedSpikeIsBridged) {
  std::vector<std::string> keys = anticipation(4);
  keys.push_back("checkpoint.keep_last=20");
  const RunRequest request{.resume = false, .provoked_step = 20, .stop_at_step = -1};
  const Recorder first = run(config("first", keys), request);
  EXPECT_EQ(first.count("rollback"), 1);
  ASSERT_GE(first.count("spike"), 1);
  const auto spike = std::find_if(first.events.begin(), first.events.end(),
                                  [](const Event& event) { return event.name == "spike"; });
  EXPECT_EQ(spike->step, 20);
  // Back to the newest checkpoint at least 6 steps before (the margin alone would give 15, the
  // delay alone 18), then 8 steps by stale choices, then as ever.
  std::vector<int64_t> anticipated;
  for (const StepResult& result : first.results) {
    if (result.anticipated) anticipated.push_back(result.step);
  }
  EXPECT_EQ(anticipated, (std::vector<int64_t>{13, 14, 15, 16, 17, 18, 19, 20}));
  EXPECT_FALSE(first.results.back().anticipated);
  EXPECT_TRUE(std::isfinite(first.results.back().lm_loss));
  // The log holds each step once, and the spike.
  const std::vector<MetricsLine> lines = read_metrics(path("first") + "/metrics.jsonl").value();
  int64_t steps = 0;
  for (const MetricsLine& line : lines)
    steps += line.event.empty() && !line.values.empty() && line.values[0].first == "loss/lm";
  EXPECT_EQ(steps, first.results.back().step);
  // TensorBoard has a file for the start and one from where the run went back to.
  EXPECT_EQ(tensorboard_files("first"),
            (std::vector<std::string>{"events.out.tfevents.000001.step0",
                                      "events.out.tfevents.000002.step12"}));
  // Again, to the bit.
  run(config("second", keys), request);
  EXPECT_TRUE(model_bytes("first") == model_bytes("second"));
}

// Killed before it removed its oldest checkpoint, a run goes back to the one that an undisturbed
// run goes back to.
TEST_F(RunTest, ARollbackDoesNotDependOnWhatAKillLeft) {
  const std::vector<std::string> keys = anticipation(6);
  const auto provoked = [](bool resume, int64_t stop) {
    return RunRequest{.resume = resume, .provoked_step = 20, .stop_at_step = stop};
  };
  const Recorder whole = run(config("whole", keys), provoked(false, -1));
  ASSERT_EQ(whole.count("rollback"), 1);
  run(config("parts", keys), provoked(false, 12));
  const std::string removed = checkpoint_directory(path("parts"), 12);
  std::filesystem::copy(removed, path("kept"));
  run(config("parts", keys), provoked(true, 18));
  EXPECT_EQ(list_checkpoints(path("parts")), (std::vector<int64_t>{15, 18}));
  std::filesystem::rename(path("kept"), removed);
  const Recorder parts = run(config("parts", keys), provoked(true, -1));
  const auto rollback = [](const Recorder& recorder) {
    return std::find_if(recorder.events.begin(), recorder.events.end(),
                        [](const Event& event) { return event.name == "rollback"; })
        ->detail;
  };
  ASSERT_EQ(parts.count("rollback"), 1);
  EXPECT_EQ(rollback(parts), rollback(whole));
  EXPECT_TRUE(model_bytes("parts") == model_bytes("whole"));
}

// Keeps a copy of the run as a kill between a rollback's checkpoint and its line in the log would
// leave it.
class KilledInRollback : public Recorder {
 public:
  KilledInRollback(std::string run, std::string copy)
      : run_(std::move(run)), copy_(std::move(copy)) {}
  void on_event(int64_t step, std::string_view event, std::string_view detail) override {
    if (event == "checkpoint" && !events.empty() && events.back().name == "spike")
      std::filesystem::copy(run_, copy_, std::filesystem::copy_options::recursive);
    Recorder::on_event(step, event, detail);
  }

 private:
  std::string run_, copy_;
};

TEST_F(RunTest, ARollbackIsToldOnceThoughAKillCameBeforeItsLine) {
  const std::vector<std::string> keys = anticipation(3);
  // Steps with a loss, and events but for the resumption.
  const auto told = [&] {
    std::vector<std::string> out;
    const std::vector<MetricsLine> lines = read_metrics(path("run") + "/metrics.jsonl").value();
    for (const MetricsLine& line : lines) {
      if (line.event == "resume") continue;
      out.push_back(fmt::format("{} {} {} {}", line.step, line.event, line.detail,
                                line.values.empty() ? 0.0 : line.values[0].second));
    }
    return out;
  };
  KilledInRollback observer(path("run"), path("killed"));
  Status status = run_observed(
      config("run", keys), {.resume = false, .provoked_step = 20, .stop_at_step = -1}, observer);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(observer.count("rollback"), 1);
  const std::vector<std::string> undisturbed = told();
  const std::string bytes = model_bytes("run");

  std::filesystem::remove_all(path("run"));
  std::filesystem::rename(path("killed"), path("run"));
  const Recorder resumed =
      run(config("run", keys), {.resume = true, .provoked_step = 20, .stop_at_step = -1});
  EXPECT_EQ(resumed.count("rollback"), 1);
  EXPECT_EQ(resumed.count("spike"), 0);
  EXPECT_EQ(told(), undisturbed);
  EXPECT_TRUE(model_bytes("run") == bytes);
}

TEST_F(RunTest, AStoppedRunGoesOnAsIfUndisturbed) {
  run(config("whole"));
  for (const int64_t stop : {5, 9, 14, 21, 30})
    run(config("parts"), {.resume = true, .provoked_step = -1, .stop_at_step = stop});
  run(config("parts"), {.resume = true, .provoked_step = -1, .stop_at_step = -1});
  EXPECT_TRUE(model_bytes("whole") == model_bytes("parts"));
  // The log tells of the five times; TensorBoard has a file for each of the six starts.
  const std::vector<MetricsLine> lines = read_metrics(path("parts") + "/metrics.jsonl").value();
  std::vector<int64_t> resumed;
  for (const MetricsLine& line : lines) {
    if (line.event == "resume") resumed.push_back(line.step);
  }
  EXPECT_EQ(resumed, (std::vector<int64_t>{5, 9, 14, 21, 30}));
  EXPECT_EQ(tensorboard_files("parts").size(), 6u);
  // The machine's peak is measured where log.peak_gflops does not give it.
  const auto share =
      std::find_if(lines.front().values.begin(), lines.front().values.end(),
                   [](const auto& value) { return value.first == "throughput/share_of_peak"; });
  ASSERT_NE(share, lines.front().values.end());
  EXPECT_GT(share->second, 0);
  run(config("without", {"log.tensorboard=false"}),
      {.resume = false, .provoked_step = -1, .stop_at_step = 1});
  EXPECT_FALSE(std::filesystem::exists(path("without") + "/tensorboard"));
}

TEST_F(RunTest, ResumedBeforeADamagedCheckpointItIsSetAside) {
  for (const int64_t stop : {5, 9})
    run(config("run"), {.resume = true, .provoked_step = -1, .stop_at_step = stop});
  std::filesystem::resize_file(checkpoint_directory(path("run"), 9) + "/model.safetensors", 100);
  run(config("run"), {.resume = true, .provoked_step = -1, .stop_at_step = 7});
  EXPECT_EQ(list_checkpoints(path("run")), (std::vector<int64_t>{6, 7}));
  EXPECT_TRUE(std::filesystem::exists(path("run") + "/checkpoints/damaged-step-0000000009"));
}

// Killed after its last evaluation, or started again, a run has nothing left to do.
TEST_F(RunTest, AFinishedRunIsNotEvaluatedAgain) {
  std::ofstream(path("over.toml"))
      << "[[validation]]\nname = \"held\"\npath = \"" << path("bytes.bin")
      << "\"\n[evaluate]\nmax_tokens = 512\n[schedule]\nbatch = { total_tokens = 1024 }\n";
  for (int i = 0; i < 2; ++i)
    run(config("run", {}, path("over.toml")),
        {.resume = true, .provoked_step = -1, .stop_at_step = -1});
  const std::vector<MetricsLine> lines = read_metrics(path("run") + "/metrics.jsonl").value();
  const auto is_evaluation = [](const MetricsLine& line) {
    return line.event.empty() && line.values.at(0).first == "validation/held/loss";
  };
  EXPECT_EQ(std::count_if(lines.begin(), lines.end(), is_evaluation), 1);
}

// Bits per byte count the text that the targets stand for: not the first token, which is no target,
// and not the end of the text, which is a target of no bytes.
TEST_F(RunTest, BitsPerByteAreOfTheTextThatIsPredicted) {
  const std::string tokenizer = test_data("../models/nano/tokenizer.json");
  const text::Tokenizer tokens =
      text::Tokenizer::from_json(read_text_file(tokenizer).value(), tokenizer).value();
  std::string text = "The whale dived, and the sea closed over it; nothing was left but foam.";
  while (tokens.encode(text).size() < 63) text += " again";
  const std::vector<int32_t> ids = tokens.encode(text);
  ASSERT_EQ(ids.size(), 63u);
  ASSERT_EQ(tokens.token_bytes(ids[0]).value(), "The");
  std::vector<uint16_t> document(ids.begin(), ids.end());
  document.push_back(1);
  ASSERT_FALSE(tokens.token_bytes(1).value().empty());
  std::ofstream(path("text.bin"), std::ios::binary)
      .write(reinterpret_cast<const char*>(document.data()),
             static_cast<std::streamsize>(document.size() * 2));
  std::ofstream(path("over.toml")) << "tokenizer = \"" << tokenizer
                                   << "\"\n[model]\nvocab_size = 4096\n[[validation]]\nname = "
                                      "\"whale\"\npath = \""
                                   << path("text.bin") << "\"\n";
  run(config("run", {}, path("over.toml")),
      {.resume = false, .provoked_step = -1, .stop_at_step = 1});
  const MetricsLine line = read_metrics(path("run") + "/metrics.jsonl").value().back();
  ASSERT_EQ(line.values.at(0).first, "validation/whale/loss");
  ASSERT_EQ(line.values.at(1).first, "validation/whale/bits_per_byte");
  const double bits = line.values[0].second * 63 / std::log(2.0);
  const auto bytes = static_cast<double>(text.size() - std::strlen("The"));
  EXPECT_NEAR(line.values[1].second, bits / bytes, 1e-12 * bits);
}

// A model whose embedding of one token is so large that the loss is no number where that token
// comes up.
TEST_F(RunTest, ALossThatIsNoNumberEndsTheRun) {
  constexpr uint16_t kToken = 200;
  run(config("first"), {.resume = false, .provoked_step = -1, .stop_at_step = 1});
  const std::string model = checkpoint_directory(path("first"), 1);
  {
    std::string bytes = read_text_file(model + "/model.safetensors").value();
    const formats::SafetensorsFile file =
        formats::SafetensorsFile::open(model + "/model.safetensors").value();
    const tensor::TensorView* embedding = file.find("embed.weight");
    ASSERT_NE(embedding, nullptr);
    const auto row_bytes = static_cast<size_t>(embedding->shape[1]) * sizeof(float);
    const std::string row(reinterpret_cast<const char*>(embedding->data) + kToken * row_bytes,
                          row_bytes);
    const std::vector<float> large(static_cast<size_t>(embedding->shape[1]), 3e38f);
    bytes.replace(bytes.find(row), row_bytes, reinterpret_cast<const char*>(large.data()),
                  row_bytes);
    ASSERT_TRUE(write_file_atomically(model + "/model.safetensors", bytes).ok());
  }
  std::filesystem::resize_file(path("bytes.bin"), 20480 * sizeof(kToken));  // all of it is read
  std::fstream(path("bytes.bin"), std::ios::in | std::ios::out | std::ios::binary)
      .seekp(5000 * sizeof(kToken))
      .write(reinterpret_cast<const char*>(&kToken), sizeof(kToken));

  const std::vector<std::string> keys = {"model.preset=", "model.init_from=" + model};
  const RunRequest request{.resume = true, .provoked_step = -1, .stop_at_step = -1};
  const Outcome outcome = try_run(config("run", keys), request);
  ASSERT_FALSE(outcome.recorder.results.empty()) << outcome.status.message();
  const int64_t step = outcome.recorder.results.back().step;
  const int64_t saved = (step - 1) / 3 * 3;
  ASSERT_GT(saved, 0);
  const std::string& message = outcome.status.message();
  EXPECT_NE(message.find(fmt::format("step {}: loss/lm: expected a finite value, found ", step)),
            std::string::npos)
      << message;
  EXPECT_NE(message.find(fmt::format("the last checkpoint is of step {}", saved)),
            std::string::npos)
      << message;
  EXPECT_FALSE(std::isfinite(outcome.recorder.results.back().lm_loss));
  // What was saved is whole and of before; the log is read, and the run goes on from there to the
  // same end.
  EXPECT_EQ(list_checkpoints(path("run")).back(), saved);
  EXPECT_TRUE(Checkpoint::open(checkpoint_directory(path("run"), saved)).has_value());
  EXPECT_EQ(read_metrics(path("run") + "/metrics.jsonl").value().back().event, "spike");
  EXPECT_EQ(try_run(config("run", keys), request).status.message(), message);

  // A rollback is tried once, and saves nothing more either.
  std::vector<std::string> bridged = keys;
  bridged.insert(bridged.end(), {"anticipation.enabled=true", "anticipation.delta_steps=1",
                                 "anticipation.rollback_margin_steps=1"});
  const Outcome again = try_run(config("bridged", bridged), request);
  EXPECT_EQ(again.recorder.count("rollback"), 1);
  EXPECT_NE(again.status.message().find("loss/lm: expected a finite value"), std::string::npos)
      << again.status.message();
  EXPECT_EQ(list_checkpoints(path("bridged")).back(), saved);
}

// A second process cannot be had inside a test, but another open file is as good: locks are theirs.
TEST_F(RunTest, TwoRunsInOneDirectoryAreRefused) {
  std::filesystem::create_directories(path("held"));
  std::filesystem::create_directory_symlink(path("held"), path("link"));
  RunRequest request;
  request.stop_at_step = 1;
  {
    const auto lock = RunLock::acquire(path("held"));
    ASSERT_TRUE(lock.has_value()) << lock.error().message();
    for (const char* name : {"held", "link"}) {
      const Outcome second = try_run(config(name), request);
      ASSERT_FALSE(second.status.ok());
      EXPECT_NE(second.status.message().find(fmt::format("process {}", ::getpid())),
                std::string::npos)
          << second.status.message();
    }
    EXPECT_FALSE(std::filesystem::exists(path("held") + "/run.toml"));
  }
  run(config("held"), request);  // let go of, the directory is free, whatever stands in the file
}

TEST_F(RunTest, WithoutATargetThereIsNoLoss) {
  auto writer = data::TokenShardWriter::create(path("single.tokens"), 64, 0);
  ASSERT_TRUE(writer.has_value());
  const int32_t id = 5;
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(writer->add_document({&id, 1}).ok());
  ASSERT_TRUE(writer->finish().has_value());
  const DataEntry single = {.name = "single", .path = path("single.tokens")};
  TrainConfig with = config("single");
  with.data = {single};
  const Outcome refused = try_run(with, {});
  ASSERT_FALSE(refused.status.ok());
  EXPECT_NE(refused.status.message().find("no position has a target"), std::string::npos)
      << refused.status.message();

  with = config("validated");
  with.validation = {single};
  RunRequest request;
  request.stop_at_step = 1;
  const Recorder recorder = run(with, request);
  EXPECT_EQ(recorder.count("validation/single"), 1);
  EXPECT_EQ(recorder.count("validation/single/loss"), 0);
  ASSERT_EQ(recorder.results.size(), 1u);
  EXPECT_GT(recorder.results[0].num_targets, 0);
}

TEST_F(RunTest, ARunIsNotOverwritten) {
  run(config("run"), {.resume = false, .provoked_step = -1, .stop_at_step = 3});
  const Status status = try_run(config("run"), {}).status;
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  EXPECT_NE(status.message().find("--resume"), std::string::npos);
}

}  // namespace
}  // namespace cachalot::train
