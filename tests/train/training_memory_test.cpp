// Recompute and lots of logits in whole models: they change memory and no bit.
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <map>

#include "base/rng.h"
#include "base/test_data.h"
#include "base/thread_pool.h"
#include "train/initialize.h"
#include "train/pass_memory.h"
#include "train/training_model.h"

namespace cachalot::train {
namespace {

using Gradients = std::map<std::string, std::vector<float>>;

struct Outcome {
  Gradients gradients;
  LossSums sums;
  double indexer_kl, balance_loss;
  int64_t clamped;
  autograd::TapeMemory memory;
  int64_t reserved_bytes, resident_bytes, arena_bytes;
};

class Training {
 public:
  explicit Training(const std::string& name)
      : Training(formats::WeightSource::open(test_data("golden/") + name).value()) {}
  explicit Training(const formats::WeightSource& source)
      : Training(source.config(), ParameterStore::from_checkpoint(source).value(),
                 TrainingPrecision::fp32()) {}
  Training(const formats::ModelConfig& config, const TrainingPrecision& precision)
      : Training(config, initial_parameters(config, {}), precision) {}
  const formats::ModelConfig& config() const { return config_; }

  Outcome run(int64_t tokens, const model::RecomputePlan& plan) {
    std::vector<std::vector<int32_t>> texts, labels;
    std::vector<Sample> samples;
    RngStream rng(5, RngPurpose::data, 0);
    for (const int64_t length : {tokens / 3, tokens - tokens / 3}) {
      auto& text = texts.emplace_back();
      for (int64_t i = 0; i < length; ++i)
        text.push_back(
            static_cast<int32_t>(rng.next_u32() % static_cast<uint32_t>(config().vocab_size)));
      labels.emplace_back(text.begin() + 1, text.end()).push_back(-1);
    }
    for (size_t i = 0; i < texts.size(); ++i) samples.push_back({texts[i], labels[i]});
    model::TrainingTerms terms;
    terms.indexer_loss = 1e-3f;
    terms.balance_alpha = 1e-2f;
    terms.balance_weight = 0.5f;
    terms.recompute = plan;
    parameters_.clear_grads(ctx_);
    Outcome outcome{};
    outcome.sums = model_->add_gradients(ctx_, samples, {0.01f, 0.003f}, &terms);
    parameters_.finish_grads(ctx_);
    for (const Parameter& parameter : parameters_.parameters())
      if (!parameter.grad.empty()) outcome.gradients[parameter.info.name] = parameter.grad;
    outcome.indexer_kl = terms.indexer_kl;
    outcome.balance_loss = terms.balance_loss;
    outcome.clamped = terms.clamped.gate_above + terms.clamped.up_above + terms.clamped.up_below;
    outcome.memory = model_->memory();
    outcome.reserved_bytes = model_->activations().reserved_bytes();
    outcome.resident_bytes = model_->activations().resident_bytes();
    outcome.arena_bytes = arena_.reserved_bytes();
    return outcome;
  }

 private:
  Training(formats::ModelConfig config, ParameterStore parameters,
           const TrainingPrecision& precision)
      : config_(std::move(config)),
        parameters_(std::move(parameters)),
        pool_(2),
        ctx_{&pool_, &arena_, device::machine_isa()},
        model_(TrainingModel::create(ctx_, config_, parameters_, precision).value()) {}

  formats::ModelConfig config_;
  ParameterStore parameters_;
  ThreadPool pool_;
  device::Arena arena_;
  device::ExecContext ctx_;
  std::unique_ptr<TrainingModel> model_;
};

void expect_equal(const Outcome& a, const Outcome& b, const std::string& what) {
  ASSERT_EQ(a.gradients.size(), b.gradients.size());
  for (const auto& [name, values] : a.gradients) {
    EXPECT_EQ(
        0, std::memcmp(values.data(), b.gradients.at(name).data(), values.size() * sizeof(float)))
        << what << ": " << name;
  }
  EXPECT_EQ(a.sums.lm, b.sums.lm) << what;
  EXPECT_EQ(a.sums.mtp, b.sums.mtp) << what;
  EXPECT_EQ(a.indexer_kl, b.indexer_kl) << what;
  EXPECT_EQ(a.balance_loss, b.balance_loss) << what;
  EXPECT_EQ(a.clamped, b.clamped) << what;
}

// "clamp" counts clamped values, "quant" has an MTP block.
TEST(TrainingMemory, AnyPlanGivesTheSameGradients) {
  for (const char* name : {"tiny", "clamp", "quant"}) {
    Training t(name);
    const Outcome plain = t.run(70, {});
    EXPECT_EQ(plain.memory.num_replayed, 0);
    RngStream rng(6, RngPurpose::data, 0);
    for (int i = 0; i < 6; ++i) {
      model::RecomputePlan plan = model::RecomputePlan::parse(i == 0 ? "all" : "mhc").value();
      if (i > 1) plan.tensors = rng.next_u32() % 128;
      plan.block_sublayers = i % 4 == 0 ? 0 : 1 + rng.next_u32() % 12;
      plan.logit_rows = i % 3 == 0 ? 0 : 1 + rng.next_u32() % 40;
      const Outcome other = t.run(70, plan);
      EXPECT_EQ(other.memory.released_bytes > 0, plan.tensors != 0);
      EXPECT_GE(other.memory.planned_peak, other.memory.measured_peak);
      expect_equal(plain, other,
                   std::string(name) + ", tensors " + std::to_string(plan.tensors) + ", block " +
                       std::to_string(plan.block_sublayers) + ", logits " +
                       std::to_string(plan.logit_rows));
    }
  }
}

int64_t pages(int64_t floats) { return device::PagedArena::bytes_of(floats); }

// "mhc" with blocks of L_r: of the streams before the L sublayers, ceil(L / L_r) stay and a block's
// others come back, L_r - 1 of them; of the mixed inputs and norms, one sublayer's. The rest does
// not depend on L_r, but for where the peak is: with all streams kept in the sublayer with the
// largest gradients, else in the first that backward reaches. That is less than one sublayer's
// streams here.
TEST(TrainingMemory, PeakFallsByTheStreamsThatAreMadeAgain) {
  Training t("tiny");
  constexpr int64_t kTokens = 120;
  const int64_t sublayers = 2 * t.config().num_hidden_layers;  // 12
  const int64_t stream = pages(kTokens * t.config().hc_mult * t.config().hidden_size);
  model::RecomputePlan plan = model::RecomputePlan::parse("mhc").value();
  plan.logit_rows = 16;
  const auto peak = [&](int64_t block) {
    plan.block_sublayers = block;
    return t.run(kTokens, plan).memory;
  };
  const autograd::TapeMemory all_kept = peak(1);
  for (const int64_t block : {2, 3, 4, 6, 12}) {
    const autograd::TapeMemory memory = peak(block);
    const int64_t kept = (sublayers + block - 1) / block + block - 1;
    const int64_t fall = all_kept.measured_peak - memory.measured_peak;
    EXPECT_GE(fall, (sublayers - kept) * stream) << block;
    EXPECT_LT(fall, (sublayers - kept + 1) * stream) << block;
    EXPECT_EQ(memory.released_bytes - all_kept.released_bytes,
              (sublayers - sublayers / block) * stream)
        << block;
    EXPECT_GE(memory.planned_peak, memory.measured_peak);
    EXPECT_LE(memory.planned_peak, memory.measured_peak * 102 / 100);
  }
}

// From shapes alone: pass_memory.h. Of 1,024 positions nearly every array is whole pages.
void expect_planned(Training& t, const TrainingPrecision& precision, const std::string& what) {
  constexpr int64_t kTokens = 1024;
  struct Case {
    const char* names;
    int64_t block_sublayers, logit_rows;
  };
  for (const Case& c :
       {Case{"none", 0, 16}, {"mhc", 0, 16}, {"maps,streams,queries", 3, 4096}, {"all", 100, 16}}) {
    model::RecomputePlan plan = model::RecomputePlan::parse(c.names).value();
    plan.block_sublayers = c.block_sublayers;
    plan.logit_rows = c.logit_rows;
    const auto measured = static_cast<double>(t.run(kTokens, plan).memory.measured_peak);
    const double planned = pass_memory(t.config(), precision, plan, kTokens).total();
    EXPECT_GT(planned, 0.998 * measured) << what << ", " << c.names;
    EXPECT_LT(planned, 1.025 * measured) << what << ", " << c.names;
  }
}

TEST(TrainingMemory, TheDryRunPlansTheMeasuredPeak) {
  Training tiny("tiny");
  expect_planned(tiny, TrainingPrecision::fp32(), "tiny");
  formats::ModelConfig config = Training("quant").config();
  Training fp8(config, TrainingPrecision::fp8());
  expect_planned(fp8, TrainingPrecision::fp8(), "fp8");
  config.cachalot.residual = {"plain"};
  config.cachalot.ffn = {"dense"};
  Training plain(config, TrainingPrecision::fp32());
  expect_planned(plain, TrainingPrecision::fp32(), "plain, dense");
  config = Training("tiny").config();
  config.cachalot.attention = {"full"};
  Training full(config, TrainingPrecision::fp32());
  expect_planned(full, TrainingPrecision::fp32(), "full attention");
  config.cachalot = {};
  config.cachalot.kv_source_layer_ids = {0, 0, 2, 3, 2, 5};
  config.cachalot.index_source_layer_ids = {0, 1, 2, 3, 2, 5};
  Training shared(config, TrainingPrecision::fp32());
  expect_planned(shared, TrainingPrecision::fp32(), "shared rows");
}

TEST(TrainingMemory, LogitsAreNeverWholeInMemory) {
  Training t("tiny");
  model::RecomputePlan whole, lots;
  whole.logit_rows = 600;
  lots.logit_rows = 8;
  const int64_t saved =
      t.run(300, whole).memory.measured_peak - t.run(300, lots).memory.measured_peak;
  EXPECT_GT(saved, 0);
}

// The second step of a shape takes no address space, and no memory where nothing is released.
TEST(TrainingMemory, NothingGrowsAfterTheFirstStep) {
  for (const char* names : {"none", "all"}) {
    Training t("tiny");
    const model::RecomputePlan plan = model::RecomputePlan::parse(names).value();
    const Outcome first = t.run(120, plan), second = t.run(120, plan);
    EXPECT_EQ(first.reserved_bytes, second.reserved_bytes);
    EXPECT_EQ(first.resident_bytes, second.resident_bytes);
    EXPECT_EQ(first.arena_bytes, second.arena_bytes);
    EXPECT_EQ(first.memory.measured_peak, second.memory.measured_peak);
  }
}

TEST(TrainingMemory, PlansAreReadByName) {
  using model::RecomputePlan;
  EXPECT_EQ(RecomputePlan::parse("none").value().tensors, 0u);
  EXPECT_EQ(RecomputePlan::parse("mhc,swiglu").value().tensors, 1u | 2u | 4u | 64u);
  EXPECT_FALSE(RecomputePlan::parse("mhc,").has_value());
  EXPECT_FALSE(RecomputePlan::parse("logits").has_value());
  // sqrt(nL / (n + 2)) is 6.4 for L = 61 and 5.4 for 43; ceil(L / L_r) steps about it.
  EXPECT_NEAR(static_cast<double>(model::optimal_block_sublayers(4, 61)), 6.4, 1.5);
  EXPECT_NEAR(static_cast<double>(model::optimal_block_sublayers(4, 43)), 5.4, 1.5);
}

// Model code annotates by one call and holds no hand-written backward.
TEST(TrainingMemory, AnAnnotationIsOneLineOfModelCode) {
  const std::string model = test_data("../src/model/");
  std::map<std::string, int> annotations;
  for (const char* file : {"attention.cpp", "compressor.cpp", "linear.cpp", "moe.cpp",
                           "residual.cpp", "transformer.cpp"}) {
    std::ifstream in(model + file);
    ASSERT_TRUE(in.good()) << file;
    for (std::string line; std::getline(in, line);) {
      EXPECT_EQ(line.find("_backward("), std::string::npos) << file << ": " << line;
      EXPECT_EQ(line.find("->record("), std::string::npos) << file << ": " << line;
      const size_t at = line.find("step.recompute(Recomputed::");
      if (at == std::string::npos) continue;
      EXPECT_EQ(line.substr(line.size() - 2), ");") << line;
      const size_t begin = at + std::strlen("step.recompute(Recomputed::");
      ++annotations[line.substr(begin, line.find(',', begin) - begin)];
    }
  }
  EXPECT_EQ(annotations, (std::map<std::string, int>{{"streams", 1},
                                                     {"mixed", 1},
                                                     {"input", 1},
                                                     {"maps", 3},
                                                     {"norms", 2},
                                                     {"queries", 1},
                                                     {"swiglu", 2}}));
}

}  // namespace
}  // namespace cachalot::train
