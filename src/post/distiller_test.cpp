// Two experts and one student: whole steps of on-policy distillation.
#include "post/distiller.h"

#include <gtest/gtest.h>

#include "base/rng.h"
#include "base/test_data.h"
#include "data/data_testing.h"
#include "formats/weight_source.h"
#include "post/rollout_engine.h"
#include "train/final_states.h"
#include "train/sample_text.h"

namespace cachalot::post {
namespace {

constexpr int64_t kPrompt = 6, kAnswer = 8;

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
  // Answers that the student samples to `count` prompts of each domain: the lower half of the ids
  // is the first expert's, the upper one the second's.
  std::vector<Trajectory> trajectories(train::Trainer& trainer, int64_t step, int64_t count) {
    std::vector<Trajectory> out;
    for (int64_t i = 0; i < 2 * count; ++i) {
      RngStream rng(7, RngPurpose::data, static_cast<uint64_t>(step * 1000 + i));
      Trajectory& trajectory = out.emplace_back();
      trajectory.id = i;
      trajectory.prompt_length = kPrompt;
      trajectory.teachers = {{static_cast<int32_t>(i % 2), 1}};
      for (int64_t t = 0; t < kPrompt; ++t)
        trajectory.tokens.push_back(static_cast<int32_t>(256 * (i % 2) + rng.next_u32() % 256));
      train::SampleOptions options;
      options.num_tokens = kAnswer;
      options.temperature = 1;
      options.seed = 5;
      options.index = step * 1000 + i;
      for (const int32_t id :
           train::sample_continuation(ctx_, trainer.model(), trajectory.tokens, options))
        trajectory.tokens.push_back(id);
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
        std::vector<int32_t> labels(answer.tokens.size(), -1);
        for (size_t t = kPrompt; t < labels.size(); ++t) labels[t - 1] = answer.tokens[t];
        const std::vector<train::Sample> sample = {{answer.tokens, labels}};
        const std::vector<float> states =
            train::final_states(model->context(), model->transformer(), sample);
        const std::vector<DistilledSample> distilled = {
            {std::ssize(labels) - kPrompt, {{k, 1, states.data()}}}};
        KlLoss loss(distilled, *used);
        trainer.model().add_gradients(ctx_, sample, loss);
        sum += loss.loss();
        ++count;
      }
      out.push_back(sum / static_cast<double>(count));
    }
    return out;
  }

  ThreadPool pool_{2};
  device::Arena arena_;
  device::ExecContext ctx_{&pool_, &arena_, device::machine_isa()};
  formats::WeightSource source_;
  std::vector<train::ParameterStore> experts_;
  int64_t num_loads_ = 0;
};

// Experts are the model with noise on every weight, which no few steps take back: the student comes
// nearer to each on its own domain than their average, on prompts that it has not seen.
TEST_F(DistillerTest, AStudentComesNearerToEachExpertThanTheirAverage) {
  const auto trainer = student(base());
  const std::vector<Trajectory> unseen = trajectories(*trainer, 999, 8);
  const std::vector<double> before = kl_to_experts(*trainer, unseen);
  const auto used = heads();
  Distiller step = distiller(*used);
  for (int64_t i = 0; i < 60; ++i) {
    const std::vector<Trajectory> answers = trajectories(*trainer, i, 6);
    const auto report = step.update(*trainer, answers, 0.003 * (1 - static_cast<double>(i) / 60));
    ASSERT_TRUE(report.has_value()) << report.error().message();
    EXPECT_EQ(report->num_tokens, 12 * kAnswer);
    EXPECT_EQ(report->teachers_run, 2);
  }
  // Each teacher's model and head once a step, and no file left.
  EXPECT_EQ(num_loads_, 2 * 60);
  EXPECT_LE(used->counts().loads, 2 * 60);
  EXPECT_TRUE(std::filesystem::is_empty(path("states")));
  const std::vector<double> after = kl_to_experts(*trainer, unseen);
  train::ParameterStore average = base();
  for (train::Parameter& parameter : average.parameters()) {
    const std::vector<float>& a = experts_[0].find(parameter.info.name)->master;
    const std::vector<float>& b = experts_[1].find(parameter.info.name)->master;
    for (size_t i = 0; i < a.size(); ++i) parameter.master[i] = (a[i] + b[i]) / 2;
  }
  const auto averaged = student(std::move(average));
  const std::vector<double> of_average = kl_to_experts(*averaged, unseen);
  for (int32_t k = 0; k < 2; ++k) {
    EXPECT_LT(after[k], 0.75 * before[k]);
    EXPECT_LT(after[k], 0.9 * of_average[k]);
  }
}

TEST_F(DistillerTest, AStepIsTheSameHoweverTheyCome) {
  const auto first = student(base()), second = student(base());
  const auto used = heads();
  Distiller step = distiller(*used);
  std::vector<Trajectory> answers = trajectories(*first, 1, 3);
  answers[2].teachers = {{1, 0.25}, {0, 0.75}};
  ASSERT_TRUE(step.update(*first, answers, 0.01).has_value());
  std::swap(answers[0], answers[5]);
  std::swap(answers[1], answers[2]);
  for (Trajectory& answer : answers) std::ranges::reverse(answer.teachers);
  ASSERT_TRUE(step.update(*second, answers, 0.01).has_value());
  for (const train::Parameter& parameter : first->parameters().parameters())
    EXPECT_EQ(parameter.master, second->parameters().find(parameter.info.name)->master);
}

TEST_F(DistillerTest, AHeadThatCannotBeReadLeavesTheStudentAsItWas) {
  const auto trainer = student(base());
  TeacherHeads broken([](int32_t) -> Result<std::vector<float>> { return io_error("no disk"); },
                      512, 96, ctx_.isa);
  Distiller step = distiller(broken);
  const auto report = step.update(*trainer, trajectories(*trainer, 1, 1), 0.01);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().message(), "no disk");
  const train::ParameterStore expected = base();
  for (const train::Parameter& parameter : trainer->parameters().parameters())
    EXPECT_EQ(parameter.master, expected.find(parameter.info.name)->master);
}

}  // namespace
}  // namespace cachalot::post
