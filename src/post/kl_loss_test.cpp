// Distillation through the model: cached states against a teacher's own forward pass, and what the
// gradient does not depend on. The numbers are held to those of another implementation by
// `cachalot verify posttrain`.
#include "post/kl_loss.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "base/rng.h"
#include "base/test_data.h"
#include "base/thread_pool.h"
#include "data/data_testing.h"
#include "formats/weight_source.h"
#include "numeric/formats.h"
#include "ops/loss/mixture_kl.h"
#include "post/teacher_states.h"
#include "train/final_states.h"
#include "train/training_model.h"

namespace cachalot::post {
namespace {

constexpr int32_t kTeachers = 3;

// Keeps the logits of all rows.
class Logits : public train::LogitsLoss {
 public:
  void add(autograd::Context ctx, const Lot& lot) override {
    values.insert(values.end(), lot.logits, lot.logits + std::ssize(lot.labels) * lot.vocab_size);
    float* d = ctx.tape->grad(lot.logits);
    std::fill_n(d, std::ssize(lot.labels) * lot.vocab_size, 0.0f);
  }
  std::vector<float> values;
};

class DistillationTest : public data::DataFiles {
 protected:
  DistillationTest()
      : source_(formats::WeightSource::open(test_data("golden/tiny")).value()),
        student_(source_, pool_, 0) {
    for (int32_t k = 1; k <= kTeachers; ++k)
      teachers_.push_back(std::make_unique<Model>(source_, pool_, 0.1 * k));
    RngStream rng(3, RngPurpose::data, 0);
    for (int64_t i = 0; i < 7; ++i) {
      std::vector<int32_t>& tokens = tokens_.emplace_back();
      for (int64_t t = 0; t < 20 + 3 * i; ++t)
        tokens.push_back(static_cast<int32_t>(rng.next_u32() % 512));
      std::vector<int32_t>& labels = labels_.emplace_back(tokens.size(), -1);
      for (size_t t = 9; t + 1 < tokens.size(); ++t) labels[t] = tokens[t + 1];
    }
  }

  struct Model {
    Model(const formats::WeightSource& source, ThreadPool& pool, double noise)
        : ctx{&pool, &arena, device::machine_isa()},
          parameters(train::ParameterStore::from_checkpoint(source).value()) {
      RngStream rng(9, RngPurpose::weights, static_cast<uint64_t>(1000 * noise));
      for (train::Parameter& parameter : parameters.parameters())
        for (float& value : parameter.master)
          value *= static_cast<float>(1 + noise * rng.next_normal());
      model = train::TrainingModel::create(ctx, source.config(), parameters,
                                           train::TrainingPrecision::fp32())
                  .value();
    }
    device::Arena arena;
    device::ExecContext ctx;
    train::ParameterStore parameters;
    std::unique_ptr<train::TrainingModel> model;
  };

  train::Sample sample(int64_t i) const { return {tokens_[i], labels_[i]}; }
  static int64_t rows(int64_t i) { return 20 + 3 * i - 10; }

  static tensor::TensorView view_of(const std::vector<float>& states) {
    return {tensor::DType::f32,
            {std::ssize(states) / 96, 96},
            reinterpret_cast<const std::byte*>(states.data())};
  }

  TeacherHeads heads() {
    return {[this](int32_t k) -> Result<std::vector<float>> {
              return teachers_[k]->parameters.find("head.weight")->master;
            },
            512, 96, device::machine_isa()};
  }

  // States of every teacher at the response tokens of every sample, through a file.
  std::vector<std::vector<std::vector<float>>> cached_states(StateType type) {
    std::vector<std::vector<std::vector<float>>> out;
    for (int32_t k = 0; k < kTeachers; ++k) {
      std::vector<SampleRows> samples;
      for (int64_t i = 0; i < 7; ++i) samples.push_back({100 - i, rows(i)});
      const std::string file = path("teacher" + std::to_string(k));
      auto writer = TeacherStatesWriter::create(file, samples, 96, type);
      for (int64_t i = 0; i < 7; ++i) {
        const std::vector<train::Sample> one = {sample(i)};
        EXPECT_TRUE(writer
                        ->add(train::final_states(teachers_[k]->ctx,
                                                  teachers_[k]->model->transformer(), one))
                        .ok());
      }
      EXPECT_TRUE(writer->finish().ok());
      const auto read = TeacherStates::open(file);
      auto& states = out.emplace_back();
      for (int64_t i = 0; i < 7; ++i) states.push_back(tensor::to_floats(*read->of(100 - i)));
    }
    return out;
  }

  struct Found {
    std::map<std::string, std::vector<float>> gradients;
    std::vector<double> row_losses;
    double loss = 0;
    TeacherHeads::Counts counts;
  };
  // The samples in the given order, in calls of so many.
  Found run(const std::vector<DistilledSample>& samples, const std::vector<int64_t>& order,
            size_t per_call = 100) {
    Found found;
    TeacherHeads used = heads();
    std::vector<DistilledSample> ordered;
    for (const int64_t i : order) ordered.push_back(samples[i]);
    used.expect(teachers_in_order(ordered));
    student_.parameters.clear_grads(student_.ctx);
    for (size_t first = 0; first < order.size(); first += per_call) {
      const size_t count = std::min(per_call, order.size() - first);
      std::vector<train::Sample> call;
      for (size_t i = first; i < first + count; ++i) call.push_back(sample(order[i]));
      const std::span<const DistilledSample> all = ordered;
      KlLoss loss(all.subspan(first, count), used);
      student_.model->add_gradients(student_.ctx, call, loss);
      EXPECT_TRUE(loss.status().ok()) << loss.status().message();
      found.row_losses.insert(found.row_losses.end(), loss.row_losses().begin(),
                              loss.row_losses().end());
      found.loss += loss.loss();
    }
    student_.parameters.finish_grads(student_.ctx);
    for (const train::Parameter& parameter : student_.parameters.parameters())
      if (!parameter.grad.empty()) found.gradients[parameter.info.name] = parameter.grad;
    found.counts = used.counts();
    return found;
  }

  ThreadPool pool_{2};
  formats::WeightSource source_;
  Model student_;
  std::vector<std::unique_ptr<Model>> teachers_;
  std::vector<std::vector<int32_t>> tokens_, labels_;
};

void expect_equal_bits(const std::map<std::string, std::vector<float>>& a,
                       const std::map<std::string, std::vector<float>>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, values] : a)
    EXPECT_EQ(0, std::memcmp(values.data(), b.at(name).data(), values.size() * sizeof(float)))
        << name;
}

// reference/post-training TS1: of a bf16 cache, with the teacher's states rounded likewise.
TEST_F(DistillationTest, KlOfCachedStatesEqualsThatOfATeachersForward) {
  const auto states = cached_states(StateType::f32);
  for (int64_t i = 0; i < 7; i += 3) {
    const std::vector<train::Sample> one = {sample(i)};
    Logits students;
    student_.model->add_gradients(student_.ctx, one, students);
    for (int32_t k = 0; k < kTeachers; ++k) {
      Logits direct;
      teachers_[k]->model->add_gradients(teachers_[k]->ctx, one, direct);
      const int64_t n = rows(i);
      std::vector<float> mixed(direct.values.size(), 0.0f);
      std::vector<int32_t> places;
      for (int32_t t = 0; t < n; ++t) places.push_back(t);
      const std::vector<float> ones(places.size(), 1.0f);
      std::vector<ops::ExpTotal> totals(places.size());
      ops::mix_teacher(student_.ctx, {direct.values.data(), 512, n, 0, 512, places.data(),
                                      ones.data(), mixed.data(), 512, totals.data()});
      std::vector<ops::MixtureLog> logs(places.size());
      for (size_t t = 0; t < logs.size(); ++t) logs[t].add(1, totals[t]);
      std::vector<double> expected(places.size());
      ops::mixture_kl(student_.ctx, {.logits = students.values.data(),
                                     .logits_stride = 512,
                                     .mixed = mixed.data(),
                                     .mixed_stride = 512,
                                     .rows = n,
                                     .vocab_size = 512,
                                     .logs = logs.data(),
                                     .losses = expected.data()});
      TeacherHeads used = heads();
      const std::vector<DistilledSample> samples = {{n, {{k, 1, view_of(states[k][i])}}}};
      KlLoss loss(samples, used);
      student_.model->add_gradients(student_.ctx, one, loss);
      EXPECT_EQ(loss.row_losses(), expected) << i << " " << k;
      EXPECT_GT(*std::min_element(expected.begin(), expected.end()), 0);
    }
  }
  const auto rounded = cached_states(StateType::bf16);
  for (int32_t k = 0; k < kTeachers; ++k) {
    for (size_t v = 0; v < states[k][0].size(); ++v)
      EXPECT_EQ(rounded[k][0][v], numeric::round_to_bf16(states[k][0][v]));
  }
}

// TS5: samples run teacher by teacher, in the order of their ids, however they came; and the order
// of a sample's teachers is no matter.
TEST_F(DistillationTest, TheOrderOfSamplesChangesNoGradient) {
  const auto states = cached_states(StateType::f32);
  std::vector<DistilledSample> samples;
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 7; ++i) {
    DistilledSample& s = samples.emplace_back();
    s.rows = rows(i);
    s.scale = 1.0 / 7;
    const auto k = static_cast<int32_t>(i % kTeachers);
    s.teachers = {{k, 0.5, view_of(states[k][i])}};
    if (i == 4) s.teachers.insert(s.teachers.begin(), {2, 0.25, view_of(states[2][i])});
    ids.push_back(100 - i);
  }
  const auto run_of = [&](const std::vector<int64_t>& came) {
    std::vector<DistilledSample> shuffled;
    std::vector<int64_t> shuffled_ids, order;
    for (const int64_t i : came) {
      shuffled.push_back(samples[i]);
      shuffled_ids.push_back(ids[i]);
      std::ranges::reverse(shuffled.back().teachers);
    }
    for (const int64_t place : dispatch_order(shuffled, shuffled_ids)) order.push_back(came[place]);
    return run(samples, order);
  };
  const Found first = run_of({0, 1, 2, 3, 4, 5, 6});
  const Found second = run_of({5, 2, 6, 0, 3, 1, 4});
  expect_equal_bits(first.gradients, second.gradients);
  EXPECT_EQ(first.loss, second.loss);
  // Nor does the cut into calls.
  const std::vector<int64_t> order = dispatch_order(samples, ids);
  expect_equal_bits(run(samples, order, 2).gradients, first.gradients);
  // Heads came in as few turns as there can be: teachers 0, 1, then 1 and 2 of the mixture, 2.
  EXPECT_EQ(first.counts.loads, 3);
  EXPECT_LE(first.counts.most_resident, 2);
}

TEST_F(DistillationTest, AHeadThatCannotBeReadIsAnErrorAndNoGradient) {
  const auto states = cached_states(StateType::f32);
  TeacherHeads broken([](int32_t) -> Result<std::vector<float>> { return io_error("no disk"); },
                      512, 96, device::machine_isa());
  const std::vector<DistilledSample> samples = {{rows(0), {{0, 1, view_of(states[0][0])}}}};
  KlLoss loss(samples, broken);
  const std::vector<train::Sample> one = {sample(0)};
  student_.parameters.clear_grads(student_.ctx);
  student_.model->add_gradients(student_.ctx, one, loss);
  student_.parameters.finish_grads(student_.ctx);
  EXPECT_EQ(loss.status().message(), "no disk");
  for (const train::Parameter& parameter : student_.parameters.parameters())
    for (const float g : parameter.grad) EXPECT_EQ(g, 0);
}

}  // namespace
}  // namespace cachalot::post
