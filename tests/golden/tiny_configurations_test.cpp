// The tiny configurations of reference/forward 11, made-up weights, through the cases listed there
// that need a whole model; the cases of one op are that op's tests.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/rng.h"
#include "engine/loaded_model.h"
#include "engine/model_cache_layout.h"
#include "formats/test_checkpoint.h"
#include "model/random_weights.h"
#include "verify/golden_run.h"
#include "verify/op_trace.h"
#include "verify/reference64.h"

namespace cachalot::verify {
namespace {

struct Tiny {
  const char* name;
  formats::ModelConfig config;
  bool quantised;  // runs at official too
  friend void PrintTo(const Tiny& tiny, std::ostream* out) { *out << tiny.name; }
};

formats::ModelConfig base_config(std::vector<int64_t> ratios) {
  formats::ModelConfig c;
  c.vocab_size = 512;
  c.hidden_size = 256;
  c.num_hidden_layers = static_cast<int64_t>(ratios.size()) - 1;
  c.num_hash_layers = c.num_hidden_layers == 2 ? 1 : 2;
  c.num_nextn_predict_layers = 1;
  c.num_attention_heads = 4;
  c.head_dim = 128;
  c.qk_rope_head_dim = 64;
  c.q_lora_rank = 128;
  c.o_groups = 2;
  c.o_lora_rank = 128;
  c.sliding_window = 8;
  c.compress_ratios = std::move(ratios);
  c.index_n_heads = 2;
  c.index_head_dim = 128;
  c.index_topk = 3;
  c.n_routed_experts = 8;
  c.num_experts_per_tok = 2;
  c.moe_intermediate_size = 128;
  c.expert_dtype = formats::ExpertDType::fp4;
  c.quantization_config.present = true;
  return c;
}

std::vector<Tiny> tiny_configurations() {
  const std::vector<int64_t> all_ratios = {0, 4, 128, 4, 128, 0};
  std::vector<Tiny> out;
  out.push_back({"Smoke", base_config({0, 0, 0}), true});
  out.push_back({"AllRatios", base_config(all_ratios), true});
  out.push_back({"ShortHca", base_config({0, 4, 16, 4, 16, 0}), true});
  out.push_back({"ProLike", base_config({128, 128, 4, 128, 4, 0}), true});
  out.back().config.num_attention_heads = 8;
  out.back().config.o_groups = 4;
  out.push_back({"RealHead", base_config(all_ratios), true});
  out.back().config.hidden_size = 512;
  out.back().config.num_attention_heads = 16;
  out.back().config.head_dim = 512;
  out.back().config.sliding_window = 128;
  out.push_back({"Unquantised", base_config(all_ratios), false});
  out.back().config.expert_dtype = formats::ExpertDType::none;
  out.back().config.quantization_config.present = false;
  out.push_back({"Fp8Experts", base_config(all_ratios), true});
  out.back().config.expert_dtype = formats::ExpertDType::fp8;
  out.push_back({"OddSizes", base_config({128, 4, 0}), false});
  formats::ModelConfig& odd = out.back().config;
  odd.num_hash_layers = 0;
  odd.hidden_size = 64;
  odd.head_dim = 32;
  odd.qk_rope_head_dim = 8;
  odd.q_lora_rank = 32;
  odd.o_lora_rank = 16;
  odd.index_head_dim = 16;
  odd.index_topk = 2;
  odd.n_routed_experts = 4;
  odd.moe_intermediate_size = 64;
  odd.hc_mult = 2;
  odd.hc_sinkhorn_iters = 3;
  odd.expert_dtype = formats::ExpertDType::none;
  odd.quantization_config.present = false;
  return out;
}

constexpr uint64_t kSeed = 11;

std::unique_ptr<engine::LoadedModel> load(const formats::ModelConfig& config,
                                          const std::string& precision) {
  engine::ModelOptions options;
  options.precision = precision;
  options.threads = 2;
  auto loaded = engine::LoadedModel::create(
      config, std::make_unique<model::RandomWeights>(config, kSeed), options);
  EXPECT_TRUE(loaded.has_value()) << loaded.error().to_string();
  return loaded.has_value() ? std::move(*loaded) : nullptr;
}

// A model, and its whole pass over `length` tokens, which everything is compared with.
class TinyConfiguration : public ::testing::TestWithParam<Tiny> {
 protected:
  const formats::ModelConfig& config() const { return GetParam().config; }
  int64_t largest_ratio() const {
    return std::max<int64_t>(4, *std::ranges::max_element(config().compress_ratios));
  }
  std::string served_precision() const { return GetParam().quantised ? "official" : "exact"; }
  int64_t width() const { return config().hc_dim(); }
  std::span<const int32_t> ids(int64_t first, int64_t count) const {
    return std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  }

  void make(const std::string& precision, int64_t length) {
    // First and last row of the tables among them.
    RngStream rng(kSeed, RngPurpose::data, 0);
    for (int64_t t = 0; t < length; ++t)
      ids_.push_back(static_cast<int32_t>(rng.next_u32() % config().vocab_size));
    ids_[1] = 0;
    ids_[2] = static_cast<int32_t>(config().vocab_size - 1);
    loaded_ = load(config(), precision);
    ASSERT_NE(loaded_, nullptr);
    runner_ = std::move(GoldenRunner::create(loaded_->transformer(), loaded_->context(), length, 4))
                  .value();
    cache::SequenceCache sequence = runner_->new_sequence().value();
    whole_ = runner_->run(sequence, ids_, {}, true).value();
  }

  // What enters layer 0: every stream is the token's embedding.
  std::vector<float> embedded() const {
    const std::vector<float> table =
        tensor::to_floats(loaded_->source().tensor("embed.weight").value());
    std::vector<float> out;
    for (const int32_t id : ids_) {
      for (int64_t stream = 0; stream < config().hc_mult; ++stream)
        out.insert(out.end(), table.begin() + id * config().hidden_size,
                   table.begin() + (id + 1) * config().hidden_size);
    }
    return out;
  }
  static void expect_explained(const OpComparison& ops, const std::string& where) {
    for (const std::string& failure : ops.failures()) ADD_FAILURE() << where << ", " << failure;
    EXPECT_GT(ops.num_values(), 0) << where;
  }

  // Continues the sequence, which has t tokens, by `count`, and compares with the whole pass.
  void expect_continues(cache::SequenceCache& sequence, int64_t t, int64_t count,
                        std::span<const int64_t> pieces, const char* what) {
    const PassRecord found = runner_->run(sequence, ids(t, count), pieces, true).value();
    for (int64_t row = 0; row < count; ++row) {
      const auto differs = [&](const std::vector<float>& a, const std::vector<float>& b,
                               int64_t columns) {
        return std::memcmp(a.data() + row * columns, b.data() + (t + row) * columns,
                           static_cast<size_t>(columns) * sizeof(float)) != 0;
      };
      ASSERT_FALSE(differs(found.streams, whole_.streams, width()) ||
                   differs(found.logits, whole_.logits, config().vocab_size))
          << what << " at " << t << ": position " << t + row;
    }
  }

  std::vector<int32_t> ids_;
  std::unique_ptr<engine::LoadedModel> loaded_;
  std::unique_ptr<GoldenRunner> runner_;
  PassRecord whole_;
};

class QuantisedTinyConfiguration : public TinyConfiguration {};

// Every op of every layer, of the MTP block and of the head, over what the model itself fed it,
// within its own bound of float64 (op_trace.h).
TEST_P(QuantisedTinyConfiguration, EveryOpLiesWithinItsBound) {
  const int64_t length = 2 * std::min<int64_t>(largest_ratio(), 64) + 3;
  make("official", length);
  engine::Runner& runner = runner_->runner();
  std::vector<float> streams = embedded();
  for (int64_t layer = 0; layer < config().num_hidden_layers; ++layer) {
    cache::SequenceCache sequence = runner_->new_sequence().value();
    const engine::StepInput input{&sequence, ids_};
    std::vector<float> out = streams;
    OpRecorder record(config());
    ASSERT_TRUE(runner.forward_layer(layer, {&input, 1}, out.data(), &record).ok());
    EXPECT_EQ(out, whole_.layer_streams.at(layer)) << layer;
    OpComparison ops(record);
    ASSERT_TRUE(observe_layer64(config(), loaded_->source(), layer, ids_, streams, ops).ok());
    expect_explained(ops, fmt::format("layer {}", layer));
    streams = std::move(out);
  }
  std::vector<int64_t> rows(static_cast<size_t>(length));
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> logits(static_cast<size_t>(length * config().vocab_size));
  OpRecorder head(config());
  loaded_->transformer().logits(loaded_->context(), streams.data(), rows, logits.data(), &head);
  OpComparison head_ops(head);
  ASSERT_TRUE(observe_head64(config(), loaded_->source(), streams, head_ops).ok());
  expect_explained(head_ops, "head");

  rows.pop_back();
  cache::SequenceCache sequence = runner_->new_sequence().value();
  ASSERT_TRUE(sequence.reserve(length).ok());
  const engine::StepInput input{&sequence, ids(1, length - 1)};
  const int64_t first_position = 0;
  std::vector<float> out(streams.size());
  OpRecorder mtp(config());
  ASSERT_TRUE(
      runner.mtp_forward(0, {&input, 1}, {&first_position, 1}, streams.data(), out.data(), &mtp)
          .ok());
  loaded_->transformer().mtp_logits(loaded_->context(), 0, out.data(), rows, logits.data(), &mtp);
  OpComparison mtp_ops(mtp);
  ASSERT_TRUE(observe_mtp64(config(), loaded_->source(), ids_, streams, mtp_ops).ok());
  expect_explained(mtp_ops, "MTP block");
}

// fp32 against float64 from the ids to the logits. A sum of K terms errs by at most about 8 sqrt(K)
// roundings of its magnitude (a random walk): 1.1e-5 at 512. A token passes some ten sums in a
// layer, and what enters one leaves it not much larger, since a norm stands before each.
TEST_P(TinyConfiguration, ExactIsTheFormulaInDouble) {
  const int64_t length = 2 * std::min<int64_t>(largest_ratio(), 64) + 3;
  make("exact", length);
  const auto expected = run_reference64(config(), loaded_->source(), ids_, false);
  ASSERT_TRUE(expected.has_value()) << expected.error().to_string();
  const double bound = 1.1e-5 * 10 * static_cast<double>(config().num_hidden_layers);
  for (int64_t row = 0; row < length; ++row) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < config().vocab_size; ++i) {
      const int64_t at = row * config().vocab_size + i;
      const double d = whole_.logits[at] - expected->logits[at];
      difference += d * d;
      size += expected->logits[at] * expected->logits[at];
    }
    EXPECT_LE(std::sqrt(difference / size), bound) << "position " << row;
  }
}

// A prompt of every length that is near a window's or a window of entries' end.
TEST_P(TinyConfiguration, APromptOfAnyLengthHasTheBitsOfALongerOnesBeginning) {
  const int64_t w = config().sliding_window;
  std::vector<int64_t> lengths = {1, 2, 3, 4, 5, w - 1, w, w + 1, 2 * w + 3};
  // The entries that the indexer chooses from are as many as it takes, fewer, more.
  for (int64_t entries = config().index_topk - 1; entries <= config().index_topk + 1; ++entries)
    lengths.insert(lengths.end(), {4 * entries - 1, 4 * entries});
  for (const int64_t ratio : config().compress_ratios)
    lengths.insert(lengths.end(), {ratio - 1, ratio, ratio + 1, 2 * ratio});
  std::ranges::sort(lengths);
  lengths.erase(std::ranges::unique(lengths).begin(), lengths.end());
  std::erase_if(lengths, [](int64_t length) { return length < 1; });
  make(served_precision(), lengths.back());
  for (const int64_t length : lengths) {
    cache::SequenceCache sequence = runner_->new_sequence().value();
    expect_continues(sequence, 0, length, {}, "prompt");
  }
}

// Token by token; at every residue of the largest window of entries also: a chunk up to another
// residue; a chunk after 1 to 5 drafts that are rejected; a chunk after save and restore.
TEST_P(TinyConfiguration, EveryCutRollbackAndRestoreContinuesWithTheSameBits) {
  const int64_t ratio = largest_ratio();
  const int64_t first = ratio + 1, last = first + std::max(ratio, config().sliding_window);
  constexpr int64_t brief = 6;
  make(served_precision(), last + ratio + 3);
  const formats::TemporaryDirectory directory("tiny-configuration");
  const std::vector<int32_t> drafts = {7, 7, 9, 400, 3};
  const model::Transformer& model = loaded_->transformer();
  cache::CacheLayout layout =
      engine::model_cache_layout(model.config(), model.precision(), {}).value();
  const cache::PoolLimits limits{layout.num_blocks(last + brief), 1};
  const auto pool = cache::BlockPool::create(std::move(layout), limits).value();
  cache::SequenceCache sequence = runner_->new_sequence().value();
  for (int64_t t = 0; t < last; ++t) {
    if (t >= first) {
      cache::SequenceCache fork = sequence.fork().value();
      expect_continues(fork, t, 1 + t * 7 % (ratio + 3), {}, "chunk");
      if (HasFatalFailure()) return;

      fork = sequence.fork().value();
      const int64_t rejected = 1 + t % 5;
      ASSERT_TRUE(
          runner_->run(fork, std::span(drafts).first(static_cast<size_t>(rejected)), {}, false)
              .has_value());
      ASSERT_TRUE(fork.rewind(t).ok());
      expect_continues(fork, t, brief, {}, "rejected drafts");
      if (HasFatalFailure()) return;

      ASSERT_TRUE(sequence.save(directory.path("saved")).ok());
      auto restored = cache::SequenceCache::restore(*pool, directory.path("saved"));
      ASSERT_TRUE(restored.has_value()) << restored.error().to_string();
      expect_continues(restored->cache, t, brief, {}, "restored");
      if (HasFatalFailure()) return;
    }
    expect_continues(sequence, t, 1, {}, "token");
    if (HasFatalFailure()) return;
  }
}

// The MTP block's rows lie beside the main model's and change nothing there.
TEST_P(TinyConfiguration, TheMtpBlockChangesNoLogits) {
  const int64_t length = 3 * config().sliding_window;
  make(served_precision(), length);
  formats::ModelConfig without = config();
  without.num_nextn_predict_layers = 0;
  const auto loaded = load(without, served_precision());
  ASSERT_NE(loaded, nullptr);
  auto alone =
      std::move(GoldenRunner::create(loaded->transformer(), loaded->context(), length, 1)).value();
  cache::SequenceCache sequence = alone->new_sequence().value();
  const PassRecord expected = alone->run(sequence, ids_, {}, true).value();
  EXPECT_EQ(expected.logits, whole_.logits);

  // With the block run after every token.
  cache::SequenceCache drafted = runner_->new_sequence().value();
  for (int64_t t = 0; t < length; ++t) {
    expect_continues(drafted, t, 1, {}, "beside the MTP block");
    if (HasFatalFailure() || t == 0) continue;
    const engine::StepInput input{&drafted, ids(t, 1)};
    const int64_t position = t - 1;
    std::vector<float> out(static_cast<size_t>(width()));
    ASSERT_TRUE(runner_->runner()
                    .mtp_forward(0, {&input, 1}, {&position, 1},
                                 whole_.streams.data() + (t - 1) * width(), out.data())
                    .ok());
  }
}

const auto kName = [](const auto& info) { return std::string(info.param.name); };

std::vector<Tiny> quantised_configurations() {
  std::vector<Tiny> all = tiny_configurations();
  std::erase_if(all, [](const Tiny& tiny) { return !tiny.quantised; });
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, TinyConfiguration, ::testing::ValuesIn(tiny_configurations()), kName);
INSTANTIATE_TEST_SUITE_P(All, QuantisedTinyConfiguration,
                         ::testing::ValuesIn(quantised_configurations()), kName);

}  // namespace
}  // namespace cachalot::verify
