// Two experts and one student: whole steps of on-policy distillation.
#include "post/distiller.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "base/test_data.h"
#include "data/data_testing.h"
#include "formats/weight_source.h"
#include "post/label_loss_testing.h"
#include "post/peak_memory_testing.h"
#include "post/rollout_engine.h"
#include "train/final_states.h"
#include "train/sample_text.h"

namespace cachalot::post {
namespace {

constexpr int64_t kPrompt = 6, kAnswer = 8;
constexpr int32_t kDomain = 16;  // tokens of a domain

class DistillerTest : public data::DataFiles {
 protected:
  DistillerTest() : source_(formats::WeightSource::open(test_data("golden/tiny")).value()) {
    for (uint64_t k = 0; k < 2; ++k) experts_.push_back(noisy(k + 1, 0.25));
  }

  train::ParameterStore base() const {
    return train::ParameterStore::from_checkpoint(source_).value();
  }
  // The model with every weight off by a share of its own.
  train::ParameterStore noisy(uint64_t seed, double share) const {
    train::ParameterStore store = base();
    RngStream rng(seed, RngPurpose::weights, 0);
    for (train::Parameter& parameter : store.parameters())
      for (float& value : parameter.master)
        value *= static_cast<float>(1 + share * rng.next_normal());
    return store;
  }
  std::unique_ptr<train::Trainer> student(train::ParameterStore parameters) {
    train::TrainerConfig config;
    config.balance_alpha = 0;
    config.bias_update_rate = 0;
    config.indexer_loss = 0;
    config.optimizer.muon.weight_decay = 0;
    config.optimizer.adamw.weight_decay = 0;
    optim::GroupingOptions& grouping = config.optimizer.grouping;
    const formats::ModelConfig& model = source_.config();
    grouping.hc_mult = model.hc_mult;
    grouping.head_dim = model.head_dim;
    grouping.index_head_dim = model.index_head_dim;
    grouping.num_attention_heads = model.num_attention_heads;
    grouping.index_n_heads = model.index_n_heads;
    grouping.o_groups = model.o_groups;
    return train::Trainer::create(ctx_, model, std::move(parameters), std::nullopt, config).value();
  }
  std::unique_ptr<TeacherHeads> heads() {
    return std::make_unique<TeacherHeads>(
        [this](int32_t k) -> Result<std::vector<float>> {
          return experts_[k].find("head.weight")->master;
        },
        512, 96, ctx_.isa);
  }
  Distiller distiller(TeacherHeads& heads) {
    return {[this](int32_t k) {
              ++num_loads_;
              return served_model(source_.config(), experts_[k], train::TrainingPrecision::fp32(),
                                  1);
            },
            heads,
            {path("states"), StateType::f32, 64}};
  }
  static std::vector<int32_t> labels_of(const std::vector<int32_t>& tokens) {
    std::vector<int32_t> labels(tokens.size(), -1);
    for (size_t t = kPrompt; t < labels.size(); ++t) labels[t - 1] = tokens[t];
    return labels;
  }
  static tensor::TensorView view_of(const std::vector<float>& states) {
    return {tensor::DType::f32,
            {std::ssize(states) / 96, 96},
            reinterpret_cast<const std::byte*>(states.data())};
  }
  Result<DistillReport> whole_step(Distiller& distiller, train::Trainer& trainer,
                                   const std::vector<Trajectory>& answers, double learning_rate) {
    CACHALOT_RETURN_IF_ERROR(distiller.run_teachers(answers));
    Result<DistillReport> report = distiller.update(trainer, answers, learning_rate);
    distiller.forget();
    return report;
  }
  // The base after having learnt what comes next in its domain.
  train::ParameterStore expert_of(int32_t k) {
    const auto trainer = student(base());
    constexpr int64_t kSteps = 80, kSamples = 12;
    for (int64_t i = 0; i < kSteps; ++i) {
      std::vector<std::vector<int32_t>> tokens, labels;
      for (int64_t n = 0; n < kSamples; ++n) {
        std::vector<int32_t>& own = tokens.emplace_back(prompt_of(k, 5000 + i * kSamples + n));
        for (int64_t t = 0; t < kAnswer; ++t)
          own.push_back(256 * k + (5 * (own.back() - 256 * k) + 3 + k) % kDomain);
        labels.push_back(labels_of(own));
      }
      testing::learn(*trainer, tokens, labels, 0.003 * (1 - static_cast<double>(i) / kSteps));
    }
    train::ParameterStore out = base();
    out.copy_values(trainer->parameters());
    return out;
  }
  static std::vector<int32_t> prompt_of(int64_t domain, int64_t number) {
    RngStream rng(7, RngPurpose::data, static_cast<uint64_t>(number));
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < kPrompt; ++t)
      tokens.push_back(static_cast<int32_t>(256 * domain + rng.next_u32() % kDomain));
    return tokens;
  }
  // Answers that the student samples to `count` prompts of each domain: tokens
  // of the lower half of the ids are the first expert's, of the upper one the second's.
  std::vector<Trajectory> trajectories(train::Trainer& trainer, int64_t step, int64_t count) {
    std::vector<Trajectory> out;
    for (int64_t i = 0; i < 2 * count; ++i) {
      Trajectory& trajectory = out.emplace_back();
      trajectory.id = i;
      trajectory.teachers = {{static_cast<int32_t>(i % 2), 1}};
      trajectory.tokens = prompt_of(i % 2, step * 1000 + i);
      train::SampleOptions options;
      options.num_tokens = kAnswer;
      options.temperature = 1;
      options.seed = 5;
      options.index = step * 1000 + i;
      for (const int32_t id :
           train::sample_continuation(ctx_, trainer.model(), trajectory.tokens, options))
        trajectory.tokens.push_back(id);
      trajectory.labels = labels_of(trajectory.tokens);
    }
    return out;
  }
  // Of a model to the experts on their own domains.
  std::vector<double> kl_to_experts(train::Trainer& trainer,
                                    const std::vector<Trajectory>& answers) {
    std::vector<double> out;
    const auto used = heads();
    for (int32_t k = 0; k < 2; ++k) {
      const auto model =
          served_model(source_.config(), experts_[k], train::TrainingPrecision::fp32(), 1).value();
      double sum = 0;
      int64_t count = 0;
      for (const Trajectory& answer : answers) {
        if (answer.teachers[0].teacher != k) continue;
        const std::vector<train::Sample> sample = {{answer.tokens, answer.labels}};
        const std::vector<float> states =
            train::final_states(model->context(), model->transformer(), sample);
        const std::vector<DistilledSample> distilled = {
            {answer.num_labels(), {{k, 1, view_of(states)}}}};
        KlLoss loss(distilled, *used);
        trainer.model().add_gradients(ctx_, sample, loss);
        sum += loss.loss();
        ++count;
      }
      out.push_back(sum / static_cast<double>(count));
    }
    return out;
  }

  ThreadPool pool_{1};
  device::Arena arena_;
  device::ExecContext ctx_{&pool_, &arena_, device::machine_isa()};
  formats::WeightSource source_;
  std::vector<train::ParameterStore> experts_;
  int64_t num_loads_ = 0;
};

// OP4: two experts have each learnt what comes next in a domain of its own. The student comes as
// near as a hundredth of a nat to each in its domain, on prompts that it has not seen; their
// average stays twenty times as far from both.
TEST_F(DistillerTest, AStudentMeetsBothExpertsAndTheirAverageNeither) {
  for (int32_t k = 0; k < 2; ++k) experts_[k] = expert_of(k);
  const auto trainer = student(base());
  const std::vector<Trajectory> unseen = trajectories(*trainer, 999, 8);
  const std::vector<double> before = kl_to_experts(*trainer, unseen);
  const auto used = heads();
  Distiller step = distiller(*used);
  constexpr int64_t kSteps = 120;
  for (int64_t i = 0; i < kSteps; ++i) {
    const std::vector<Trajectory> answers = trajectories(*trainer, i, 6);
    const auto report =
        whole_step(step, *trainer, answers, 0.003 * (1 - static_cast<double>(i) / kSteps));
    ASSERT_TRUE(report.has_value()) << report.error().message();
    EXPECT_EQ(report->num_tokens, 12 * kAnswer);
  }
  // Each teacher's model and head once a step, and no file left.
  EXPECT_EQ(num_loads_, 2 * kSteps);
  EXPECT_LE(used->counts().loads, 2 * kSteps);
  EXPECT_TRUE(std::filesystem::is_empty(path("states")));
  const std::vector<Trajectory> answers = trajectories(*trainer, 998, 8);
  const std::vector<double> after = kl_to_experts(*trainer, answers);
  train::ParameterStore average = base();
  for (train::Parameter& parameter : average.parameters()) {
    const std::vector<float>& a = experts_[0].find(parameter.info.name)->master;
    const std::vector<float>& b = experts_[1].find(parameter.info.name)->master;
    for (size_t i = 0; i < a.size(); ++i) parameter.master[i] = (a[i] + b[i]) / 2;
  }
  const auto averaged = student(std::move(average));
  const std::vector<double> of_average = kl_to_experts(*averaged, answers);
  for (int32_t k = 0; k < 2; ++k) {
    std::printf("expert %d: KL %.4f before, %.4f after, %.4f of the average\n", k, before[k],
                after[k], of_average[k]);
    EXPECT_LT(after[k], 0.01);
    EXPECT_GT(of_average[k], 20 * after[k]);
  }
}

// TS3, of whole steps: the same answers with two teachers and with twelve.
TEST_F(DistillerTest, MemoryDoesNotGrowWithTheNumberOfTeachers) {
  const auto trainer = student(base());
  std::vector<Trajectory> answers = trajectories(*trainer, 1, 12);
  const auto peak_of = [&](int32_t num_teachers) {
    TeacherHeads used(
        [&](int32_t k) -> Result<std::vector<float>> {
          return noisy(static_cast<uint64_t>(k), 0.1).find("head.weight")->master;
        },
        512, 96, ctx_.isa);
    Distiller step(
        [&](int32_t k) {
          return served_model(source_.config(), noisy(static_cast<uint64_t>(k), 0.1),
                              train::TrainingPrecision::fp32(), 1);
        },
        used, {path("states"), StateType::bf16, 64});
    for (size_t i = 0; i < answers.size(); ++i)
      answers[i].teachers = {{static_cast<int32_t>(i) % num_teachers, 1}};
    testing::peak_since_last();
    const auto report = whole_step(step, *trainer, answers, 0.001);
    EXPECT_TRUE(report.has_value()) << report.error().message();
    EXPECT_EQ(used.counts().loads, num_teachers);
    return static_cast<double>(testing::peak_since_last());
  };
  peak_of(12);  // what the process needs once
  const double two = peak_of(2), twelve = peak_of(12);
  std::printf("two teachers %.1f MiB, twelve %.1f MiB\n", two / (1 << 20), twelve / (1 << 20));
  EXPECT_LE(twelve, 1.02 * two);
}

TEST_F(DistillerTest, AStepIsTheSameHoweverTheyCome) {
  const auto first = student(base()), second = student(base());
  const auto used = heads();
  Distiller step = distiller(*used);
  std::vector<Trajectory> answers = trajectories(*first, 1, 3);
  answers[2].teachers = {{1, 0.25}, {0, 0.75}};
  ASSERT_TRUE(whole_step(step, *first, answers, 0.01).has_value());
  std::swap(answers[0], answers[5]);
  std::swap(answers[1], answers[2]);
  for (Trajectory& answer : answers) std::ranges::reverse(answer.teachers);
  ASSERT_TRUE(whole_step(step, *second, answers, 0.01).has_value());
  for (const train::Parameter& parameter : first->parameters().parameters())
    EXPECT_EQ(parameter.master, second->parameters().find(parameter.info.name)->master);
}

// What a tool has said is read and not learnt.
TEST_F(DistillerTest, OnlyWhatWasSampledIsLearnt) {
  RolloutPlan plan;
  plan.group_size = 1;
  plan.groups = {{{7, 8, 9}, 20}};
  RolloutLogHead head{.num_groups = 1, .group_size = 1, .vocab_size = 512};
  auto log = RolloutLog::open(path("answers.log"), head);
  ASSERT_TRUE(log.has_value()) << log.error().message();
  ASSERT_TRUE(log->add_prompt(0, {}).ok());
  ASSERT_TRUE(log->add_token(0, {.id = 10, .logprob = -1}).ok());
  ASSERT_TRUE(log->add_given(0, std::vector<int32_t>{20, 21}).ok());
  for (const int32_t id : {11, 1}) ASSERT_TRUE(log->add_token(0, {.id = id, .logprob = -1}).ok());
  ASSERT_TRUE(log->finish(0, AnswerEnd::stop).ok());
  const Trajectory trajectory = trajectory_of(plan, *log, 0);
  EXPECT_EQ(trajectory.tokens, (std::vector<int32_t>{7, 8, 9, 10, 20, 21, 11}));
  EXPECT_EQ(trajectory.labels, (std::vector<int32_t>{-1, -1, 10, -1, -1, 11, 1}));
  EXPECT_EQ(trajectory.num_labels(), 3);
}

TEST_F(DistillerTest, AHeadThatCannotBeReadLeavesTheStudentAsItWas) {
  const auto trainer = student(base());
  TeacherHeads broken([](int32_t) -> Result<std::vector<float>> { return io_error("no disk"); },
                      512, 96, ctx_.isa);
  Distiller step = distiller(broken);
  const auto report = whole_step(step, *trainer, trajectories(*trainer, 1, 1), 0.01);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().message(), "no disk");
  const train::ParameterStore expected = base();
  for (const train::Parameter& parameter : trainer->parameters().parameters())
    EXPECT_EQ(parameter.master, expected.find(parameter.info.name)->master);
}

}  // namespace
}  // namespace cachalot::post
