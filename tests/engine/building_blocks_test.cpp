// Every building block of the model, run in turn by its definition, the slow one, while all others
// run as they do: the bits are the same everywhere.
// Source  reference/infrastructure 9, N1.
#include <cstring>
#include <map>
#include <set>

#include "cache/block_pool.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"
#include "engine/trained_model.h"
#include "ops/sampling/sampling.h"

namespace cachalot::engine {
namespace {

using device::Isa;

// A piece, then single tokens: so many that HCA completes an entry of 128, and that the indexer
// must choose.
constexpr int64_t kPiece = 150, kTokens = 152;

uint64_t hash(const void* data, size_t bytes) {
  return std::hash<std::string_view>()({static_cast<const char*>(data), bytes});
}

// What a pass makes, a block after the other, by name. Before each block it chooses whose version
// runs: what runs between two calls is the block that the second one names.
class BlockProbe : public model::ForwardProbe {
 public:
  struct Made {
    std::string block;
    uint64_t hash;
  };

  // order: the blocks of a pass before; none of them runs by its definition where `swapped` is
  // empty.
  BlockProbe(device::ExecContext& ctx, const model::Transformer& model,
             const std::vector<Made>* order, std::string swapped)
      : ctx_(ctx),
        fast_(ctx.isa),
        config_(model.config()),
        order_(order),
        swapped_(std::move(swapped)) {
    choose();
  }
  ~BlockProbe() override { ctx_.isa = fast_; }

  void on_op(std::string_view name, const float* values, int64_t rows, int64_t columns,
             int64_t stride) override {
    std::vector<float> dense;
    for (int64_t i = 0; i < rows; ++i)
      dense.insert(dense.end(), values + i * stride, values + i * stride + columns);
    add(std::string(name), hash(dense.data(), dense.size() * sizeof(float)));
  }
  void on_router(int64_t, const int32_t* ids, const float*, int64_t rows) override {
    add("router",
        hash(ids, static_cast<size_t>(rows * config_.num_experts_per_tok) * sizeof(*ids)));
  }
  void on_selection(int64_t, const int32_t* selected, int64_t rows) override {
    add("selection",
        hash(selected, static_cast<size_t>(rows * config_.index_topk) * sizeof(*selected)));
  }
  void add(std::string block, uint64_t hash) {
    made_.push_back({std::move(block), hash});
    choose();
  }

  const std::vector<Made>& made() const { return made_; }

 private:
  void choose() {
    const bool is_next = order_ != nullptr && made_.size() < order_->size() &&
                         (*order_)[made_.size()].block == swapped_;
    ctx_.isa = is_next ? Isa::reference : fast_;
  }

  device::ExecContext& ctx_;
  const Isa fast_;
  const formats::ModelConfig& config_;
  const std::vector<Made>* order_;
  const std::string swapped_;
  std::vector<Made> made_;
};

class BuildingBlocks : public ::testing::Test {
 protected:
  device::ExecContext& ctx() { return loaded_->context(); }
  const model::Transformer& model() const { return loaded_->transformer(); }

  // A prompt, two steps of one token, their logits and the tokens drawn.
  std::vector<BlockProbe::Made> run(const std::vector<BlockProbe::Made>* order,
                                    const std::string& swapped) {
    BlockProbe probe(ctx(), model(), order, swapped);
    cache::SequenceCache sequence = cache::SequenceCache::create(*pool_).value();
    Runner runner(model(), ctx());
    const int64_t width = model().num_streams() * model().config().hidden_size;
    const int64_t vocab_size = model().config().vocab_size;
    std::vector<float> streams(static_cast<size_t>(kPiece * width)), logits(vocab_size);
    const std::span<const int32_t> ids(ids_);
    for (int64_t at = 0, count = kPiece; at < kTokens; at += count, count = 1) {
      const StepInput input{&sequence, ids.subspan(at, count)};
      EXPECT_TRUE(runner.forward({&input, 1}, streams.data(), &probe).ok());
      const int64_t row[] = {count - 1};
      model().logits(ctx(), streams.data(), row, logits.data(), &probe);
      ops::SamplingRow sampling;
      sampling.top_p = 0.9;
      sampling.position = at;
      ops::SampledToken token;
      ops::sample(ctx(), {logits.data(), vocab_size, 1, vocab_size, &sampling, &token});
      probe.add("sample", static_cast<uint64_t>(token.id) ^ hash(&token.logprob, sizeof(double)));
    }
    return probe.made();
  }

  static void expect_same(const std::vector<BlockProbe::Made>& found,
                          const std::vector<BlockProbe::Made>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i].block, expected[i].block) << i;
      ASSERT_EQ(found[i].hash, expected[i].hash) << found[i].block << ", call " << i;
    }
  }

  std::unique_ptr<LoadedModel> loaded_ =
      LoadedModel::load({.path = testing::nano(), .threads = 2}).value();
  std::unique_ptr<cache::BlockPool> pool_ =
      cache::BlockPool::create(
          model_cache_layout(model().config(), model().precision(), {}).value(),
          {.max_blocks = 4, .max_sequences = 1})
          .value();
  const std::vector<int32_t> ids_ = testing::manual_page(kTokens);
};

TEST_F(BuildingBlocks, EachCanBeSwappedForItsDefinition) {
  const std::vector<BlockProbe::Made> expected = run(nullptr, "");
  std::set<std::string> blocks;
  for (const BlockProbe::Made& made : expected) blocks.insert(made.block);
  // The roles of the reference's table that a processor has, each by blocks that play it.
  const std::map<std::string, std::vector<std::string>> roles = {
      {"products (DeepGEMM)", {"q_a", "q", "wo_a", "wo_b", "gate", "experts.gate", "logits"}},
      {"products of the indexer and of mHC (DeepGEMM)", {"selection", "index.weight", "hc.pre"}},
      {"dispatch and combine (DeepEP)", {"experts.gate", "experts.down", "ffn"}},
      {"sparse attention (FlashMLA)", {"attention"}},
      {"small ops (TileKernels)",
       {"norm", "q.head_norm", "q.rope", "kv.row", "index.hadamard", "index.row", "compress.pooled",
        "compress.row", "hc.u", "hc.streams", "router", "routing.weights", "experts.hidden",
        "sample"}}};
  for (const auto& [role, names] : roles) {
    for (const std::string& name : names)
      EXPECT_TRUE(blocks.contains(name)) << role << ": " << name;
  }
  for (const std::string& block : blocks) expect_same(run(&expected, block), expected);
}

}  // namespace
}  // namespace cachalot::engine
