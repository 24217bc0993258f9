// The gradients of whole models: what they do not depend on, and which loss reaches which
// parameter.
#include "train/training_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>

#include "base/rng.h"
#include "base/test_data.h"
#include "base/thread_pool.h"
#include "device/isa.h"
#include "ops/matmul/matmul.h"

namespace cachalot::train {
namespace {

using Tokens = std::vector<int32_t>;

struct Text {
  Tokens tokens, labels;
  Sample sample() const { return {tokens, labels}; }
};

Text random_text(int64_t length, uint64_t seed, int64_t vocab_size) {
  RngStream rng(seed, RngPurpose::data, 0);
  Text text;
  for (int64_t i = 0; i < length; ++i)
    text.tokens.push_back(static_cast<int32_t>(rng.next_u32() % static_cast<uint32_t>(vocab_size)));
  text.labels.assign(text.tokens.begin() + 1, text.tokens.end());
  text.labels.push_back(-1);
  return text;
}

// Everything after the last layer, and the choices made on the way.
class Recorder : public model::ForwardProbe {
 public:
  explicit Recorder(int64_t layers) {
    choices.experts.resize(static_cast<size_t>(layers));
    choices.selected.resize(static_cast<size_t>(layers));
  }
  void on_streams(int64_t layer, const float* values, int64_t rows) override {
    if (layer == last_layer) streams.assign(values, values + rows * width);
  }
  void on_router(int64_t layer, const int32_t* ids, const float*, int64_t rows) override {
    choices.experts[layer].assign(ids, ids + rows * k);
  }
  void on_selection(int64_t layer, const int32_t* selected, int64_t rows) override {
    auto& all = choices.selected[layer];
    all.insert(all.end(), selected, selected + rows * topk);
  }
  int64_t last_layer = 0, width = 0, k = 0, topk = 0;
  std::vector<float> streams;
  model::Choices choices;
};

class Training {
 public:
  explicit Training(const std::string& name, int threads = 2,
                    const std::function<void(formats::ModelConfig&)>& change = {})
      : source_(formats::WeightSource::open(test_data("golden/") + name).value()),
        parameters_(ParameterStore::from_checkpoint(source_).value()),
        pool_(threads),
        ctx_{&pool_, &arena_, device::machine_isa()} {
    formats::ModelConfig config = source_.config();
    if (change) change(config);
    model_ = TrainingModel::create(ctx_, config, parameters_, TrainingPrecision::fp32()).value();
  }
  const formats::ModelConfig& config() const { return source_.config(); }
  ParameterStore& parameters() { return parameters_; }
  device::ExecContext& ctx() { return ctx_; }
  TrainingModel& model() { return *model_; }

  Recorder recorder() {
    Recorder r(config().num_all_layers());
    r.last_layer = config().num_hidden_layers - 1;
    r.width = model_->transformer().num_streams() * config().hidden_size;
    r.k = config().num_experts_per_tok;
    r.topk = config().index_topk;
    return r;
  }
  // All gradients by name after one or several calls from zero.
  std::map<std::string, std::vector<float>> gradients(const std::vector<std::vector<Sample>>& calls,
                                                      const LossWeights& weights,
                                                      model::TrainingTerms* terms = nullptr,
                                                      Recorder* recorder = nullptr) {
    parameters_.clear_grads(ctx_);
    for (const std::vector<Sample>& samples : calls)
      sums = model_->add_gradients(ctx_, samples, weights, terms, recorder);
    parameters_.finish_grads(ctx_);
    std::map<std::string, std::vector<float>> grads;
    for (const Parameter& parameter : parameters_.parameters())
      if (!parameter.grad.empty()) grads[parameter.info.name] = parameter.grad;
    return grads;
  }
  LossSums sums;

 private:
  formats::WeightSource source_;
  ParameterStore parameters_;
  ThreadPool pool_;
  device::Arena arena_;
  device::ExecContext ctx_;
  std::unique_ptr<TrainingModel> model_;
};

void expect_equal_bits(const std::map<std::string, std::vector<float>>& a,
                       const std::map<std::string, std::vector<float>>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, values] : a) {
    EXPECT_EQ(0, std::memcmp(values.data(), b.at(name).data(), values.size() * sizeof(float)))
        << name;
  }
}

double norm(const std::vector<float>& values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * v;
  return std::sqrt(sum);
}

bool is_indexer(const std::string& name) { return name.find(".indexer.") != std::string::npos; }

TEST(TrainingModel, GradientsDoNotDependOnThreads) {
  Training one("tiny", 1), three("tiny", 3);
  const Text text = random_text(150, 1, one.config().vocab_size);
  const LossWeights weights{1.0f / 149, 0};
  expect_equal_bits(one.gradients({{text.sample()}}, weights),
                    three.gradients({{text.sample()}}, weights));
}

TEST(TrainingModel, GradientsDoNotDependOnHowSamplesAreCutIntoCalls) {
  Training t("tiny");
  std::vector<Text> texts;
  std::vector<Sample> samples;
  for (uint64_t i = 0; i < 8; ++i)
    texts.push_back(random_text(9 + 13 * static_cast<int64_t>(i), i, 512));
  for (const Text& text : texts) samples.push_back(text.sample());
  std::vector<std::vector<Sample>> one_by_one;
  for (const Sample& sample : samples) one_by_one.push_back({sample});
  model::TrainingTerms terms;
  terms.balance_alpha = 1e-2f;
  terms.balance_weight = 1.0f / 8;
  terms.indexer_loss = 1e-3f;
  const LossWeights weights{1.0f / 400, 0};
  const auto together = t.gradients({samples}, weights, &terms);
  expect_equal_bits(together, t.gradients(one_by_one, weights, &terms));
}

// Weights of a sample's positions are a factor of its losses: the MTP block's too.
TEST(TrainingModel, WeightsAreFactorsOfTheLosses) {
  Training t("quant");
  const Text first = random_text(40, 1, t.config().vocab_size);
  const Text second = random_text(70, 2, t.config().vocab_size);
  const std::vector<float> twos(40, 2.0f), halves(70, 0.5f);
  // By calls of their own, whose factors they become.
  t.parameters().clear_grads(t.ctx());
  LossSums apart = t.model().add_gradients(t.ctx(), std::vector<Sample>{first.sample()}, {2, 0.5f});
  const LossSums plain =
      t.model().add_gradients(t.ctx(), std::vector<Sample>{second.sample()}, {0.5f, 0.125f});
  t.parameters().finish_grads(t.ctx());
  std::map<std::string, std::vector<float>> expected;
  for (const Parameter& parameter : t.parameters().parameters())
    if (!parameter.grad.empty()) expected[parameter.info.name] = parameter.grad;
  Sample a = first.sample(), b = second.sample();
  a.weights = twos;
  b.weights = halves;
  expect_equal_bits(t.gradients({{a, b}}, {1, 0.25f}), expected);
  EXPECT_EQ(t.sums.lm_weight, 2 * 39 + 0.5 * 69);
  EXPECT_EQ(t.sums.mtp_weight, 2 * 38 + 0.5 * 68);
  EXPECT_EQ(t.sums.lm_targets, 39 + 69);
  EXPECT_NEAR(t.sums.lm, 2 * apart.lm + 0.5 * plain.lm, 1e-9);
  EXPECT_NEAR(t.sums.mtp, 2 * apart.mtp + 0.5 * plain.mtp, 1e-9);
}

TEST(TrainingModel, StreamsOfASampleInAPackAreThoseOfTheSampleAlone) {
  Training t("tiny");
  const Text before = random_text(37, 3, 512), sample = random_text(141, 4, 512),
             after = random_text(70, 5, 512);
  Recorder packed = t.recorder(), alone = t.recorder();
  t.gradients({{before.sample(), sample.sample(), after.sample()}}, {}, nullptr, &packed);
  t.gradients({{sample.sample()}}, {}, nullptr, &alone);
  ASSERT_EQ(alone.streams.size(), static_cast<size_t>(141 * packed.width));
  EXPECT_EQ(0, std::memcmp(alone.streams.data(), packed.streams.data() + 37 * packed.width,
                           alone.streams.size() * sizeof(float)));
}

TEST(TrainingModel, TheIndexerLearnsFromItsOwnLossAloneAndNothingElseDoes) {
  Training t("tiny");
  const Text text = random_text(200, 6, 512);
  const auto lm = t.gradients({{text.sample()}}, {1.0f / 199, 0});
  model::TrainingTerms terms;
  terms.indexer_loss = 1;
  const auto kl = t.gradients({{text.sample()}}, {0, 0}, &terms);
  EXPECT_GT(terms.indexer_kl, 0);
  int num_indexer = 0;
  for (const auto& [name, grad] : lm) {
    if (is_indexer(name)) {
      EXPECT_EQ(norm(grad), 0) << name;
      EXPECT_GT(norm(kl.at(name)), 0) << name;
      ++num_indexer;
    } else {
      EXPECT_EQ(norm(kl.at(name)), 0) << name;
    }
  }
  EXPECT_EQ(num_indexer, 12);
}

// Central differences of the loss in fp32 would drown; the indexer's own loss is summed in double
// and its step can be large.
TEST(TrainingModel, TheIndexersGradientIsThatOfItsLoss) {
  Training t("tiny");
  const Text text = random_text(64, 7, 512);
  const auto kl_at = [&] {
    model::TrainingTerms terms;
    terms.dense_attention = true;  // no picks that could change under the step
    terms.indexer_loss = 1;
    t.gradients({{text.sample()}}, {0, 0}, &terms);
    return terms.indexer_kl;
  };
  kl_at();
  for (const char* name :
       {"layers.2.attn.indexer.wq_b.weight", "layers.4.attn.indexer.compressor.wkv.weight",
        "layers.2.attn.indexer.weights_proj.weight", "layers.4.attn.indexer.compressor.ape"}) {
    kl_at();
    Parameter& parameter = *t.parameters().find(name);
    const std::vector<float> grad = parameter.grad, start = parameter.master;
    const double length = norm(grad);
    ASSERT_GT(length, 0) << name;
    const double step = 1e-3 * norm(start);
    const auto moved = [&](double sign) {
      for (size_t i = 0; i < start.size(); ++i)
        parameter.master[i] = static_cast<float>(start[i] + sign * step * grad[i] / length);
      EXPECT_TRUE(t.model().refresh(t.ctx()).ok());
      return kl_at();
    };
    const double slope = (moved(1) - moved(-1)) / (2 * step);
    parameter.master = start;
    ASSERT_TRUE(t.model().refresh(t.ctx()).ok());
    // Second order cancels; third order and fp32 scores leave a few parts in a thousand at this
    // step.
    EXPECT_NEAR(slope, length, 0.01 * length) << name;
  }
}

TEST(TrainingModel, ReplayedChoicesOfTheSameWeightsChangeNothing) {
  Training t("tiny");
  const Text text = random_text(160, 8, 512);
  Recorder recorder = t.recorder();
  const LossWeights weights{1.0f / 159, 0};
  const auto chosen = t.gradients({{text.sample()}}, weights, nullptr, &recorder);
  model::TrainingTerms terms;
  terms.replay = &recorder.choices;
  expect_equal_bits(chosen, t.gradients({{text.sample()}}, weights, &terms));
}

TEST(TrainingModel, ReplayedExpertsKeepTheWeightsOfThePresentRouter) {
  Training t("tiny");
  const Text text = random_text(96, 9, 512);
  Recorder stale = t.recorder();
  const LossWeights weights{1.0f / 95, 0};
  t.gradients({{text.sample()}}, weights, nullptr, &stale);
  Parameter& gate = *t.parameters().find("layers.5.ffn.gate.weight");
  for (size_t i = 0; i < gate.master.size(); ++i) gate.master[i] *= i % 3 == 0 ? 1.5f : -0.5f;
  ASSERT_TRUE(t.model().refresh(t.ctx()).ok());
  Recorder fresh = t.recorder(), replayed = t.recorder();
  t.gradients({{text.sample()}}, weights, nullptr, &fresh);
  EXPECT_NE(fresh.choices.experts[5], stale.choices.experts[5]);
  model::TrainingTerms terms;
  terms.replay = &stale.choices;
  t.gradients({{text.sample()}}, weights, &terms, &replayed);
  EXPECT_EQ(replayed.choices.experts[5], stale.choices.experts[5]);
  EXPECT_NE(replayed.streams, stale.streams);
}

// A limit that every value exceeds: what was clamped has no gradient (reference/training 7.2).
TEST(TrainingModel, ClampedValuesHaveNoGradient) {
  Training t("tiny", 2, [](formats::ModelConfig& config) { config.swiglu_limit = 1e-9; });
  const Text text = random_text(60, 7, 512);
  int64_t num_up = 0;
  for (const auto& [name, grad] : t.gradients({{text.sample()}}, {1.0f / 59, 0})) {
    if (!name.ends_with(".w3.weight") || name.starts_with("mtp.")) continue;
    EXPECT_EQ(norm(grad), 0) << name;
    ++num_up;
  }
  EXPECT_GT(num_up, 0);
}

TEST(TrainingModel, LoadsCountEveryChoiceOfTheScoredLayers) {
  Training t("tiny");
  const Text text = random_text(77, 10, 512);
  model::TrainingTerms terms;
  terms.loads.resize(static_cast<size_t>(t.config().num_all_layers()));
  t.gradients({{text.sample()}}, {}, &terms);
  for (int64_t layer = 0; layer < t.config().num_hidden_layers; ++layer) {
    const auto& loads = terms.loads[layer];
    const int64_t sum = std::accumulate(loads.begin(), loads.end(), int64_t{0});
    EXPECT_EQ(sum, layer < t.config().num_hash_layers ? 0 : 77 * t.config().num_experts_per_tok)
        << layer;
  }
}

// The quantised golden model has an MTP block; its values are made fp32 masters.
TEST(TrainingModel, TheMtpBlockLearnsAndReachesTheMainModel) {
  Training t("quant");
  const Text text = random_text(40, 11, t.config().vocab_size);
  const auto lm = t.gradients({{text.sample()}}, {1.0f / 39, 0});
  EXPECT_EQ(t.sums.mtp_targets, 0);
  const auto both = t.gradients({{text.sample()}}, {1.0f / 39, 0.3f / 38});
  EXPECT_EQ(t.sums.mtp_targets, 38);
  for (const auto& [name, grad] : lm) {
    if (name.starts_with("mtp.")) {
      EXPECT_EQ(norm(grad), 0) << name;
    }
  }
  EXPECT_GT(norm(both.at("mtp.0.e_proj.weight")), 0);
  // The shared head's gradient has both losses' parts; what the streams pass on does not reach it.
  EXPECT_NE(both.at("head.weight"), lm.at("head.weight"));
  EXPECT_NE(both.at("layers.0.attn.wq_a.weight"), lm.at("layers.0.attn.wq_a.weight"));
}

// Without its MTP block the model gives the logits that it gives beside it, even while the block's
// loss is computed.
TEST(TrainingModel, WithoutTheMtpBlockTheMainLogitsKeepTheirBits) {
  Training with("quant"), without("quant", 2, [](formats::ModelConfig&config) {
    config.num_nextn_predict_layers = 0;
    config.compress_ratios.resize(static_cast<size_t>(config.num_hidden_layers));
  });
  ASSERT_GT(with.config().num_nextn_predict_layers, 0);
  const Text text = random_text(150, 12, with.config().vocab_size);
  std::vector<int64_t> rows(150);
  std::iota(rows.begin(), rows.end(), 0);
  const auto logits = [&](Training& t, float mtp_weight) {
    Recorder recorder = t.recorder();
    t.gradients({{text.sample()}}, {1.0f / 149, mtp_weight}, nullptr, &recorder);
    std::vector<float> out(rows.size() * static_cast<size_t>(t.config().vocab_size));
    t.model().transformer().logits(t.ctx(), recorder.streams.data(), rows, out.data());
    return out;
  };
  const std::vector<float> beside = logits(with, 0.3f / 148), alone = logits(without, 0);
  EXPECT_EQ(with.sums.mtp_targets, 148);
  EXPECT_EQ(without.sums.mtp_targets, 0);
  EXPECT_EQ(0, std::memcmp(beside.data(), alone.data(), alone.size() * sizeof(float)));
  EXPECT_EQ(with.sums.lm, without.sums.lm);
}

}  // namespace
}  // namespace cachalot::train
