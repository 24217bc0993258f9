// Whole runs of distillation on a tiny model: the student comes near its teachers, each in its
// domain; stops, kills and cuts show in no bit; its data are its own.
#include "post/distill_run.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>
#include <filesystem>
#include <numeric>

#include "ops/loss/mixture_kl.h"
#include "post/policy_batch.h"
#include "rollout_testing.h"
#include "task_run_testing.h"
#include "train/final_states.h"
#include "train/forward_loss.h"

namespace cachalot::post {
namespace {

namespace fs = std::filesystem;
using testing::Recorder;

// Counts the sampled tokens that the student, as it is before the step's updates, gives another
// log-probability than the log says.
class OriginLearner : public TaskLearner {
 public:
  explicit OriginLearner(const DistillConfig& config) : inner_(distill_learner(config)) {}
  Status open(TaskRun& run) override { return inner_->open(run); }
  Status begin_step(TaskRun& run, int64_t step) override { return inner_->begin_step(run, step); }
  Status update(TaskRun& run, const StepAnswers& answers, train::MetricValues* values) override {
    std::vector<int64_t> numbers(static_cast<size_t>(answers.plan.num_answers()));
    std::iota(numbers.begin(), numbers.end(), 0);
    CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<PolicyBatch> batch,
                              PolicyBatch::create(answers.plan, answers.log, numbers, run.model()));
    const std::vector<double> found =
        policy_logprobs(run.context(), run.trainer().model().transformer(), *batch, {});
    int64_t off = 0;
    for (size_t t = 0; t < found.size(); ++t) off += found[t] != batch->sampler()[t];
    off_policy.push_back(off);
    return inner_->update(run, answers, values);
  }
  Status forget_before(int64_t step) override { return inner_->forget_before(step); }

  std::vector<int64_t> off_policy;  // of the steps

 private:
  std::unique_ptr<TaskLearner> inner_;
};

class DistillRunTest : public testing::TaskRunTest {
 protected:
  void SetUp() override {
    TaskRunTest::SetUp();
    std::string tasks;
    for (int i = 0; i < 6; ++i) {
      tasks += fmt::format(
          R"({{"prompt": "{} + ", "check": {{"kind": "rules", "rules": [{{"max_lines": 9}}]}}}})"
          "\n",
          i);
    }
    ASSERT_TRUE(write_file_atomically(path("sums.jsonl"), tasks).ok());
    for (int k = 0; k < 2; ++k) make_teacher(fmt::format("teacher-{}", k), {}, 11 + k);
  }

  // A model's directory with made-up weights.
  void make_teacher(const std::string& name, const std::vector<std::string>& more, uint64_t seed) {
    const DistillConfig config = config_of(name, more).value();
    const formats::ModelConfig model = train::model_config(config.run.train).value();
    const train::ParameterStore parameters = train::initial_parameters(model, {0.1, 0.01, seed});
    const std::string tokenizer = read_text_file(path("tokenizer.json")).value();
    ASSERT_TRUE(
        train::save_checkpoint(path(name), {model, parameters, {}, {}, "", tokenizer, 0, ""}).ok());
  }
  std::string teacher(const std::string& name) const {
    return train::checkpoint_directory(path(name), 0);
  }

  // Two domains with a teacher each.
  std::vector<std::string> two_teachers() const {
    return {fmt::format("distill.tasks=[{{path='{}',name='digits'}},{{path='{}',name='sums'}}]",
                        path("tasks.jsonl"), path("sums.jsonl")),
            fmt::format("distill.teachers=[{{path='{}',name='a',domains=['digits']}},"
                        "{{path='{}',name='b',domains=['sums']}}]",
                        teacher("teacher-0"), teacher("teacher-1"))};
  }
  Result<DistillConfig> config_of(const std::string& name,
                                  const std::vector<std::string>& more) const {
    const std::vector<std::string> files = {test_data("post/tiny.toml")};
    std::vector<std::string> all = assignments("distill", name, two_teachers());
    all.insert(all.end(), more.begin(), more.end());
    return read_distill_config(files, all);
  }
  Result<TaskRunSummary> run(const std::string& name, const std::vector<std::string>& more,
                             TaskRunObserver& observer,
                             const TaskRunRequest& request = {}) override {
    CACHALOT_ASSIGN_OR_RETURN(const DistillConfig config, config_of(name, more));
    return run_distillation(ctx_, config, request, observer);
  }
  std::vector<int64_t> off_policy_tokens(const std::string& name,
                                         const std::vector<std::string>& more, Recorder& recorder) {
    const DistillConfig config = config_of(name, more).value();
    OriginLearner learner(config);
    const TaskRunRequest request;
    EXPECT_TRUE(TaskRun(ctx_, config.run, request, recorder, learner).run().has_value());
    return learner.off_policy;
  }

  ThreadPool pool_{2};
  device::Arena arena_;
  device::ExecContext ctx_{&pool_, &arena_, device::machine_isa()};
};

TEST_F(DistillRunTest, TheStudentComesNearEachTeacherInItsDomain) {
  const Recorder recorder = run_whole(
      "falls", {"distill.steps=40", "distill.mini_batches=1", "distill.prompts_per_step=8",
                "distill.group_size=2", "distill.max_new_tokens=6", "distill.top_p=1"});
  for (const char* domain : {"task/0.digits/divergence", "task/1.sums/divergence"}) {
    const std::vector<double> values = recorder.values(domain);
    ASSERT_EQ(values.size(), 40u);
    std::printf("%s: %.4f at first, %.4f at last\n", domain, values.front(), values.back());
    EXPECT_LT(values.back(), 0.6 * values.front());
  }
  EXPECT_TRUE(fs::is_empty(path("falls") + "/teachers"));
}

// OP5: the data of each update are the current student's, or of weights as stale as the log says.
TEST_F(DistillRunTest, DataAreTheStudentsAndStalenessIsLogged) {
  const std::vector<std::string> fp4 = {"precision=fp8", "qat=true"};
  Recorder fresh;
  EXPECT_EQ(off_policy_tokens("fresh", fp4, fresh), (std::vector<int64_t>{0, 0, 0, 0}));
  EXPECT_EQ(fresh.values("policy/staleness"), (std::vector<double>{0, 0, 0, 0}));
  Recorder stale;
  const std::vector<int64_t> off = off_policy_tokens(
      "stale", {"distill.weights_every_steps=2", "checkpoint.every_steps=2"}, stale);
  EXPECT_EQ(stale.values("policy/staleness"), (std::vector<double>{0, 1, 0, 1}));
  EXPECT_EQ(off[0], 0);
  EXPECT_GT(off[1], 0);
  EXPECT_EQ(off[2], 0);
  EXPECT_GT(off[3], 0);
}

// TS5 through whole runs, mixtures too: cuts, and who was sampled beside whom.
TEST_F(DistillRunTest, NeitherMicroBatchesNorRoomShowInABit) {
  const std::vector<std::string> mixture = {
      fmt::format("distill.teachers=[{{path='{}',name='a',weight=0.5}},"
                  "{{path='{}',name='b',domains=['sums'],weight=2}}]",
                  teacher("teacher-0"), teacher("teacher-1"))};
  for (const char* estimator : {"full", "sampled"}) {
    std::vector<std::string> more = mixture;
    more.push_back(fmt::format("distill.estimator={}", estimator));
    const std::string one = fmt::format("one-{}", estimator);
    const std::string other = fmt::format("other-{}", estimator);
    run_whole(one, more);
    more.insert(more.end(), {"schedule.micro_batch_tokens=1", "distill.max_sequences=2",
                             "distill.num_drafts=0", "recompute.logit_rows=3"});
    run_whole(other, more);
    EXPECT_EQ(weights(one), weights(other)) << estimator;
    EXPECT_EQ(metrics(one), metrics(other)) << estimator;
  }
}

TEST_F(DistillRunTest, ARunThatIsStoppedOrKilledIsResumedAsIfUndisturbed) {
  const std::vector<std::string> more = {"distill.weights_every_steps=2",
                                         "checkpoint.every_steps=2"};
  run_whole("whole", more);
  for (const int64_t stop_after : {11, 29}) {
    const std::string name = fmt::format("stopped-{}", stop_after);
    TaskRunRequest request;
    for (int64_t starts = 0; starts < 60; ++starts) {
      Recorder recorder(stop_after);
      const Result<TaskRunSummary> summary = run(name, more, recorder, request);
      ASSERT_TRUE(summary.has_value()) << summary.error().message();
      request.resume = true;
      if (summary->is_done) break;
      // As after a kill: the last log ends within a frame, and a teacher's states are a part.
      std::string last;
      for (const auto& entry : fs::directory_iterator(path(name) + "/rollouts"))
        last = std::max(last, entry.path().string());
      fs::resize_file(last, fs::file_size(last) - std::min<uintmax_t>(3, fs::file_size(last)));
      fs::create_directories(path(name) + "/teachers");
      ASSERT_TRUE(
          write_file_atomically(path(name) + "/teachers/teacher-0.safetensors", "torn").ok());
    }
    EXPECT_EQ(weights(name), weights("whole")) << stop_after;
    EXPECT_EQ(metrics(name), metrics("whole")) << stop_after;
  }
}

// A student that is its teacher: no divergence at any token, by either estimate, to the bit, though
// the teacher runs in FP4 from a file.
TEST_F(DistillRunTest, OfItselfItLearnsNothing) {
  for (const char* estimator : {"full", "sampled"}) {
    const std::string name = fmt::format("itself-{}", estimator);
    const Recorder recorder =
        run_whole(name, {"precision=fp8", "qat=true", "distill.steps=1", "distill.mini_batches=1",
                         "init.std=0.1", "seed=11", fmt::format("distill.estimator={}", estimator),
                         fmt::format("distill.teachers=[{{path='{}'}}]", teacher("teacher-0"))});
    EXPECT_EQ(recorder.values("distill/divergence"), std::vector<double>{0}) << estimator;
    EXPECT_EQ(recorder.values("policy/grad_norm"), std::vector<double>{0}) << estimator;
  }
}

TEST_F(DistillRunTest, WhatIsWrongIsNamed) {
  const auto error = [&](const std::vector<std::string>& more) {
    Recorder recorder;
    const Result<TaskRunSummary> summary = run("wrong", more, recorder);
    EXPECT_FALSE(summary.has_value());
    return summary ? "" : summary.error().message();
  };
  const auto expect_in = [&](const std::vector<std::string>& more, const std::string& text) {
    const std::string found = error(more);
    EXPECT_NE(found.find(text), std::string::npos) << found;
  };
  const std::string path_0 = teacher("teacher-0");
  expect_in({"distill.estimater=full"}, "\"estimator\"?");
  expect_in({"distill.estimator=all"}, "distill.estimator");
  expect_in({"distill.states=f16"}, "distill.states");
  expect_in({"distill.teachers=[]"}, "distill.teachers: expected an array of tables");
  expect_in({"distill.teachers=[{name='a'}]"},
            "distill.teachers.0.path: expected a model's directory, found none");
  expect_in({"distill.teachers=[{path='x',wieght=1}]"}, "\"weight\"?");
  expect_in({"distill.teachers=[{path='x',weight=0}]"}, "distill.teachers.0.weight");
  expect_in({"distill.teachers=[{path='x'},{path='x'}]"},
            "distill.teachers.1.name: expected a name of its own, found \"x\" twice");
  expect_in({"distill.teachers=[{path='x',domains=['digit','sums']}]"},
            "distill.teachers.0.domains: expected names of tasks (\"digits\"?), found \"digit\"");
  expect_in({"distill.teachers=[{path='x',domains=['sums']}]"},
            "distill.tasks.0: expected a teacher with the domain \"digits\", found none");
  expect_in({"distill.teachers=[{path='" + path("nowhere") + "'}]"}, "nowhere");
  make_teacher("wide", {"model.vocab_size=330"}, 1);
  expect_in({"distill.teachers=[{path='" + teacher("wide") + "',name='w'}]"},
            "teacher w: vocab_size: expected 322, the student's, found 330");
  make_teacher("other", {"model.hidden_size=256"}, 1);
  expect_in({"distill.teachers=[{path='" + path_0 + "',name='a'},{path='" + teacher("other") +
             "',name='o'}]"},
            "teacher o: hidden_size: expected 128, as of a, found 256");
  make_teacher("short", {"model.max_position_embeddings=6"}, 1);
  expect_in({"distill.teachers=[{path='" + teacher("short") + "',name='s'}]"},
            "teacher s: expected an answer within its 6 tokens");
  make_teacher("tongue", {}, 1);
  const std::string tokenizer = teacher("tongue") + "/tokenizer.json";
  json::value text = parse_json(read_text_file(tokenizer).value(), tokenizer).value();
  json::object& vocab = text.at("model").at("vocab").as_object();
  std::swap(vocab["a"], vocab["b"]);
  ASSERT_TRUE(write_file_atomically(tokenizer, boost::json::serialize(text)).ok());
  expect_in({"distill.teachers=[{path='" + teacher("tongue") + "',name='t'}]"},
            "expected \"a\", the student's, found \"b\"");
}

// Keeps the logits of all rows.
class Logits : public train::LogitsLoss {
 public:
  void add(autograd::Context, const Lot& lot) override {
    values.insert(values.end(), lot.logits, lot.logits + std::ssize(lot.labels) * lot.vocab_size);
  }
  std::vector<float> values;
};

// TS1 as teachers run, in native FP4 with heads in bf16: what cached states and a head give are the
// bits of the teacher's own forward pass.
TEST(Distillation, CachedStatesOfAServedTeacherGiveItsOwnLogits) {
  constexpr int64_t kVocab = 96, kRows = 12;
  const train::TrainingPrecision precision = train::parse_training_precision("fp8", true).value();
  testing::Policy policy(precision);
  const auto teacher =
      served_model(policy.config(), policy.trainer().parameters(), precision, 1).value();
  std::vector<int32_t> tokens, labels;
  for (int64_t t = 0; t < kRows; ++t) tokens.push_back(static_cast<int32_t>((7 * t + 3) % kVocab));
  labels = tokens;
  const std::vector<train::Sample> sample = {{tokens, labels}};
  Logits direct;
  train::forward_loss(teacher->context(), teacher->transformer(), sample, direct);
  const std::vector<float> states =
      train::final_states(teacher->context(), teacher->transformer(), sample);
  TeacherHeads heads(
      [&](int32_t) -> Result<std::vector<float>> {
        return policy.trainer().parameters().find("head.weight")->master;
      },
      kVocab, policy.config().hidden_size, policy.ctx().isa, ops::MatmulMath::bf16);
  const TeacherHead& head = **heads.use(0);
  std::vector<float> logits(static_cast<size_t>(kRows * kVocab));
  ops::matmul(policy.ctx(), {.x = states.data(),
                             .m = kRows,
                             .x_stride = policy.config().hidden_size,
                             .w = &head.stretches[0],
                             .y = logits.data(),
                             .y_stride = kVocab,
                             .math = heads.math()});
  EXPECT_EQ(logits, direct.values);
}

}  // namespace
}  // namespace cachalot::post
