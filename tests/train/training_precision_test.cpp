// Whole models at every training precision: the server's logits, gradients of quantised weights,
// and what qat changes.
#include "train/training_precision.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "base/rng.h"
#include "base/test_data.h"
#include "base/thread_pool.h"
#include "device/isa.h"
#include "formats/convert.h"
#include "formats/test_checkpoint.h"
#include "train/training_model.h"

namespace cachalot::train {
namespace {

using Grads = std::map<std::string, std::vector<float>>;
using Tokens = std::vector<int32_t>;

constexpr int64_t kLength = 150;

Tokens random_tokens(int64_t length, uint64_t seed, int64_t vocab_size) {
  RngStream rng(seed, RngPurpose::data, 0);
  Tokens out;
  for (int64_t i = 0; i < length; ++i)
    out.push_back(static_cast<int32_t>(rng.next_u32() % static_cast<uint32_t>(vocab_size)));
  return out;
}

class Choices : public model::ForwardProbe {
 public:
  explicit Choices(const formats::ModelConfig& config) : config_(config) {
    choices.experts.resize(static_cast<size_t>(config.num_all_layers()));
    choices.selected.resize(static_cast<size_t>(config.num_all_layers()));
  }
  void on_router(int64_t layer, const int32_t* ids, const float*, int64_t rows) override {
    choices.experts[layer].assign(ids, ids + rows * config_.num_experts_per_tok);
  }
  void on_selection(int64_t layer, const int32_t* selected, int64_t rows) override {
    auto& all = choices.selected[layer];
    all.insert(all.end(), selected, selected + rows * config_.index_topk);
  }
  model::Choices choices;

 private:
  const formats::ModelConfig& config_;
};

// The golden model whose shapes fit FP8 and FP4 blocks, its masters moved off every grid.
class Training {
 public:
  explicit Training(TrainingPrecision precision, int threads = 2,
                    device::Isa isa = device::machine_isa())
      : source_(formats::WeightSource::open(test_data("golden/quant")).value()),
        parameters_(ParameterStore::from_checkpoint(source_).value()),
        pool_(threads),
        ctx_{&pool_, &arena_, isa},
        precision_(precision) {
    RngStream rng(17, RngPurpose::weights, 0);
    for (Parameter& parameter : parameters_.parameters()) {
      for (float& x : parameter.master) x = static_cast<float>(x * (1 + 0.05 * rng.next_normal()));
    }
    model_ = TrainingModel::create(ctx_, source_.config(), parameters_, precision).value();
  }
  const formats::ModelConfig& config() const { return source_.config(); }
  ParameterStore& parameters() { return parameters_; }
  device::ExecContext& ctx() { return ctx_; }
  TrainingModel& model() { return *model_; }
  Status refresh() { return model_->refresh(ctx_); }

  Grads gradients(model::TrainingTerms* terms = nullptr, model::ForwardProbe* probe = nullptr) {
    const Tokens tokens = random_tokens(kLength, 1, config().vocab_size);
    Tokens labels(tokens.begin() + 1, tokens.end());
    labels.push_back(-1);
    parameters_.clear_grads(ctx_);
    sums = model_->add_gradients(ctx_, std::vector<Sample>{{tokens, labels}},
                                 {1.0f / (kLength - 1), 0.3f / (kLength - 2)}, terms, probe);
    parameters_.finish_grads(ctx_);
    Grads grads;
    for (const Parameter& parameter : parameters_.parameters())
      if (!parameter.grad.empty()) grads[parameter.info.name] = parameter.grad;
    return grads;
  }
  LossSums sums;

  // Masters become the values that the model multiplies by.
  void snap_masters() {
    for (Parameter& parameter : parameters_.parameters()) {
      const PreparedFormat format = prepared_format(precision_, parameter.info);
      if (format == PreparedFormat::bf16) {
        for (float& x : parameter.master) x = numeric::round_to_bf16(x);
      } else if (format != PreparedFormat::f32) {
        formats::RecastCounts counts;
        const int64_t columns = parameter.num_columns();
        const Fp8Matrix fp8 =
            quantize_weight(ctx_, format,
                            {parameter.master.data(), parameter.info.shape[0], columns, columns},
                            &counts)
                .value();
        const std::vector<float> values = tensor::dequantize(fp8.view());
        std::copy(values.begin(), values.end(), parameter.master.begin());
      }
    }
    ASSERT_TRUE(refresh().ok());
  }

  // The masters as a checkpoint of floats.
  void save(const std::string& directory, formats::ExpertDType expert_dtype) {
    formats::ModelConfig config = source_.config();
    config.quantization_config.present = expert_dtype != formats::ExpertDType::none;
    config.expert_dtype = expert_dtype;
    config.torch_dtype = "float32";
    std::vector<formats::TensorSpec> specs;
    std::vector<std::span<const std::byte>> data;
    std::vector<std::vector<int64_t>> tables;
    tables.reserve(source_.inventory().size());
    for (const formats::TensorInfo& info : source_.inventory()) {
      if (const Parameter* parameter = parameters_.find(info.name)) {
        specs.push_back({info.name, tensor::DType::f32, info.shape});
        data.push_back(std::as_bytes(std::span(parameter->master)));
      } else {
        const std::vector<int32_t>& ids = *parameters_.table(info.name);
        tables.emplace_back(ids.begin(), ids.end());
        specs.push_back({info.name, tensor::DType::i64, info.shape});
        data.push_back(std::as_bytes(std::span(tables.back())));
      }
    }
    ASSERT_TRUE(formats::write_safetensors(directory + "/model.safetensors", specs, data).ok());
    ASSERT_TRUE(write_file_atomically(directory + "/config.json",
                                      formats::to_pretty_json(formats::to_json(config)))
                    .ok());
  }

 private:
  formats::WeightSource source_;
  ParameterStore parameters_;
  ThreadPool pool_;
  device::Arena arena_;
  device::ExecContext ctx_;
  TrainingPrecision precision_;
  std::unique_ptr<TrainingModel> model_;
};

// Main and MTP logits of one text.
std::vector<float> logits(device::ExecContext& ctx, const model::Transformer& model) {
  const formats::ModelConfig& config = model.config();
  Tokens tokens = random_tokens(kLength, 1, config.vocab_size);
  const int64_t width = model.num_streams() * config.hidden_size;
  std::vector<int64_t> rows(kLength);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> streams(static_cast<size_t>(kLength * width)), drafted(streams.size());
  std::vector<float> out(static_cast<size_t>(2 * kLength * config.vocab_size));
  const SampleBatch batch(config, model.precision(), tokens, std::vector<int64_t>{kLength});
  model.forward(ctx, batch.batch(), streams.data());
  model.logits(ctx, streams.data(), rows, out.data());
  const SampleBatch again(config, model.precision(), tokens, std::vector<int64_t>{kLength});
  model.mtp_forward(ctx, 0, again.batch(), streams.data(), drafted.data());
  model.mtp_logits(ctx, 0, drafted.data(), rows, out.data() + kLength * config.vocab_size);
  return out;
}

int64_t num_different(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  int64_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) count += std::memcmp(&a[i], &b[i], sizeof(float)) != 0;
  return count;
}

void expect_the_servers_logits(TrainingPrecision precision, formats::ConvertPrecision exported,
                               formats::ExpertDType experts) {
  Training training(precision);
  const formats::TemporaryDirectory masters("masters"), served("served");
  training.save(masters.path(), experts);
  formats::ConvertOptions options;
  options.precision = exported;
  const auto summary = formats::convert_checkpoint(masters.path(), served.path(), options);
  ASSERT_TRUE(summary) << summary.error().message();
  formats::WeightSource source = formats::WeightSource::open(served.path()).value();
  const formats::ModelConfig config = source.config();
  const model::CheckpointWeights weights(std::move(source));
  const model::Transformer server =
      model::Transformer::create(training.ctx(), config, weights, precision.activations()).value();
  if (precision.qat) {
    EXPECT_EQ(server.weights().layers[1].ffn.experts[0].w1.format(), ops::WeightFormat::fp4);
  }
  const std::vector<float> expected = logits(training.ctx(), server);
  EXPECT_EQ(num_different(logits(training.ctx(), training.model().transformer()), expected), 0);
  EXPECT_TRUE(std::isfinite(expected[0]));
}

TEST(TrainingPrecision, LogitsAtQatAreThoseOfNativeFp4) {
  expect_the_servers_logits(TrainingPrecision::fp4_qat(), formats::ConvertPrecision::quantized,
                            formats::ExpertDType::none);
}
TEST(TrainingPrecision, LogitsAtFp8AreThoseOfTheFp8Checkpoint) {
  expect_the_servers_logits(TrainingPrecision::fp8(), formats::ConvertPrecision::quantized,
                            formats::ExpertDType::fp8);
}
TEST(TrainingPrecision, LogitsAtBf16AreThoseOfTheBf16Checkpoint) {
  expect_the_servers_logits(TrainingPrecision::bf16(), formats::ConvertPrecision::bf16,
                            formats::ExpertDType::none);
}
TEST(TrainingPrecision, LogitsAtFp32AreThoseOfTheMasters) {
  expect_the_servers_logits(TrainingPrecision::fp32(), formats::ConvertPrecision::f32,
                            formats::ExpertDType::none);
}

TEST(TrainingPrecision, TheRecordedForwardPassHasTheBitsOfThePlainOne) {
  for (const TrainingPrecision precision :
       {TrainingPrecision::bf16(), TrainingPrecision::fp4_qat()}) {
    Training t(precision);
    t.gradients();
    const Tokens tokens = random_tokens(kLength, 1, t.config().vocab_size);
    Tokens labels(tokens.begin() + 1, tokens.end());
    labels.push_back(-1);
    const LossSums plain = t.model().losses(t.ctx(), std::vector<Sample>{{tokens, labels}}, {1, 1});
    EXPECT_EQ(t.sums.lm, plain.lm);
    EXPECT_EQ(t.sums.mtp, plain.mtp);
  }
}

TEST(TrainingPrecision, WhatIsMadeAgainHasTheBitsOfWhatWasKept) {
  for (const TrainingPrecision precision :
       {TrainingPrecision::bf16(), TrainingPrecision::fp4_qat()}) {
    Training t(precision);
    model::TrainingTerms terms;
    terms.indexer_loss = 1e-3f;
    const Grads kept = t.gradients(&terms);
    EXPECT_EQ(t.model().memory().num_replayed, 0);
    terms.recompute = model::RecomputePlan::parse("all").value();
    const Grads made_again = t.gradients(&terms);
    EXPECT_GT(t.model().memory().num_replayed, 0);
    for (const auto& [name, grad] : kept)
      EXPECT_EQ(num_different(grad, made_again.at(name)), 0) << name;
  }
}

// Kernels are chosen by these alone (ops/matmul/matmul_plan.h, model/linear.h).
TEST(TrainingPrecision, QatChangesPreparedWeightsAlone) {
  Training fp8(TrainingPrecision::fp8()), qat(TrainingPrecision::fp4_qat());
  const auto& a = fp8.model().transformer();
  const auto& b = qat.model().transformer();
  EXPECT_EQ(std::memcmp(&a.precision(), &b.precision(), sizeof(model::Precision)), 0);
  ASSERT_EQ(a.weights().slots.size(), b.weights().slots.size());
  int num_experts = 0;
  for (size_t i = 0; i < a.weights().slots.size(); ++i) {
    const model::WeightSlot &x = a.weights().slots[i], &y = b.weights().slots[i];
    if (x.matrix == nullptr) {
      EXPECT_EQ(*x.values, *y.values) << x.name;
      continue;
    }
    const bool expert = x.name.find(".experts.") != std::string::npos;
    num_experts += expert ? 1 : 0;
    EXPECT_EQ(x.matrix->format(), y.matrix->format()) << x.name;
    EXPECT_EQ(x.matrix->num_bytes(), y.matrix->num_bytes()) << x.name;
    const int64_t panel_bytes = x.matrix->panel_bytes(x.matrix->panel_width(0));
    const bool same =
        std::memcmp(x.matrix->panel(0), y.matrix->panel(0), static_cast<size_t>(panel_bytes)) == 0;
    EXPECT_EQ(same, !expert) << x.name;
  }
  EXPECT_EQ(num_experts, 3 * 8 * 6);
  EXPECT_EQ(qat.model().recast().inexact_blocks, 0);
  EXPECT_GT(qat.model().recast().blocks, 0);
  EXPECT_EQ(fp8.model().recast().blocks, 0);
}

// Straight-through: a gradient depends on the master by way of the quantised value only, and no
// element is masked.
TEST(TrainingPrecision, GradientsAreThoseOfTheQuantisedWeights) {
  for (const TrainingPrecision precision :
       {TrainingPrecision::bf16(), TrainingPrecision::fp8(), TrainingPrecision::fp4_qat()}) {
    Training t(precision);
    const Grads of_masters = t.gradients();
    t.snap_masters();
    const Grads of_values = t.gradients();
    for (const auto& [name, grad] : of_masters)
      EXPECT_EQ(num_different(grad, of_values.at(name)), 0) << name;
  }
}

// Against fp32 with the same weights and choices: what is left is the rounding of activations and
// gradients.
TEST(TrainingPrecision, GradientsPointWhereThoseOfTheSameWeightsInFp32Do) {
  const auto compare = [](TrainingPrecision precision, double least_cosine) {
    Training rounded(precision), exact(TrainingPrecision::fp32());
    rounded.snap_masters();
    exact.parameters().copy_values(rounded.parameters());
    ASSERT_TRUE(exact.refresh().ok());
    Choices probe(rounded.config());
    const Grads a = rounded.gradients(nullptr, &probe);
    model::TrainingTerms terms;
    terms.replay = &probe.choices;
    const Grads b = exact.gradients(&terms);
    double ab = 0, aa = 0, bb = 0;
    for (const auto& [name, grad] : a) {
      for (size_t i = 0; i < grad.size(); ++i) {
        ab += static_cast<double>(grad[i]) * b.at(name)[i];
        aa += static_cast<double>(grad[i]) * grad[i];
        bb += static_cast<double>(b.at(name)[i]) * b.at(name)[i];
      }
    }
    const double cosine = ab / std::sqrt(aa * bb);
    std::printf("cosine %.6f, norm ratio %.5f, loss %.6f of %.6f\n", cosine, std::sqrt(aa / bb),
                rounded.sums.lm, exact.sums.lm);
    EXPECT_GT(cosine, least_cosine);
    EXPECT_NEAR(std::sqrt(aa / bb), 1, 0.1);
  };
  compare(TrainingPrecision::bf16(), 0.99);
  compare(TrainingPrecision::fp8(), 0.95);
  compare(TrainingPrecision::fp4_qat(), 0.95);
}

TEST(TrainingPrecision, GradientsDependOnNeitherThreadsNorInstructionSet) {
  for (const TrainingPrecision precision :
       {TrainingPrecision::bf16(), TrainingPrecision::fp4_qat()}) {
    Training one(precision, 1),
        other(precision, 3,
              device::machine_isas().back() == device::Isa::reference ? device::Isa::reference
                                                                      : device::Isa::avx2);
    const Grads a = one.gradients(), b = other.gradients();
    for (const auto& [name, grad] : a) EXPECT_EQ(num_different(grad, b.at(name)), 0) << name;
  }
}

TEST(TrainingPrecision, ScalesTooFarApartAreCountedAndTheStepGoesOn) {
  Training t(TrainingPrecision::fp4_qat());
  std::vector<float>& master = t.parameters().find("layers.1.ffn.experts.3.w1.weight")->master;
  for (size_t i = 0; i < 32; ++i) master[i] *= 0x1p-13f;
  ASSERT_TRUE(t.refresh().ok());
  EXPECT_EQ(t.model().recast().blocks_over_limit, 1);
  EXPECT_GE(t.model().recast().max_spread, 12);
}

TEST(TrainingPrecision, AMasterThatIsNotFiniteIsAnErrorWithItsName) {
  Training t(TrainingPrecision::fp8());
  t.parameters().find("layers.0.attn.wq_a.weight")->master[5] = std::nanf("");
  const Status status = t.refresh();
  EXPECT_EQ(status.code(), StatusCode::invalid_argument);
  EXPECT_NE(status.message().find("layers.0.attn.wq_a.weight"), std::string::npos);
}

TEST(TrainingPrecision, Names) {
  EXPECT_EQ(parse_training_precision("bf16", false)->level, TrainingPrecision::Level::bf16);
  EXPECT_TRUE(parse_training_precision("fp8", true)->qat);
  EXPECT_FALSE(parse_training_precision("bf16", true));
  EXPECT_FALSE(parse_training_precision("fp4", false));
}

}  // namespace
}  // namespace cachalot::train
