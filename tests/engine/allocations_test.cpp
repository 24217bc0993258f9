// The token loop takes no memory: a decode step of a model that is warm allocates nothing.
// Source  style: everything has a limit, allocated at start.
#include <atomic>
#include <cstdlib>
#include <new>
#include <numeric>

#include "base/rng.h"
#include "cache/block_pool.h"
#include "engine/engine.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"
#include "engine/sampling_params.h"
#include "engine/trained_model.h"
#include "formats/weight_source.h"

namespace {

std::atomic<bool> is_counting{false};
std::atomic<int64_t> num_allocations{0};

void* counted(size_t size, size_t alignment) {
  if (is_counting.load(std::memory_order_relaxed)) ++num_allocations;
  void* memory =
      alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__
          ? std::malloc(size)
          : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

// Every form of new that the others do not come down to.
void* operator new(size_t size) { return counted(size, 0); }
void* operator new(size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<size_t>(alignment));
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace cachalot::engine {
namespace {

// Of this and all other threads.
template <typename Fn>
int64_t allocations_of(Fn&& fn) {
  num_allocations = 0;
  is_counting = true;
  fn();
  is_counting = false;
  return num_allocations;
}

TEST(Allocations, AreCounted) {
  EXPECT_EQ(allocations_of([] {}), 0);
  std::vector<int> values;
  EXPECT_EQ(allocations_of([&] { values.resize(100); }), 1);
}

// The batch of a decode step, its memory taken before.
struct DecodeBatch {
  std::vector<int32_t> tokens;
  std::vector<int64_t> first_row, first_position;
  std::vector<tensor::LayerRows> rows;  // [layers][sequences]
  std::vector<const tensor::LayerRows*> layer_rows;

  DecodeBatch(std::vector<cache::SequenceCache>& sequences, int64_t num_layers, int64_t step) {
    for (const cache::SequenceCache& sequence : sequences) {
      tokens.push_back(static_cast<int32_t>((37 * step + sequence.num_tokens()) % 4096));
      first_row.push_back(static_cast<int64_t>(first_position.size()));
      first_position.push_back(sequence.num_tokens());
    }
    first_row.push_back(static_cast<int64_t>(first_position.size()));
    for (int64_t layer = 0; layer < num_layers; ++layer)
      for (cache::SequenceCache& sequence : sequences) rows.push_back(sequence.views(layer));
    for (int64_t layer = 0; layer < num_layers; ++layer)
      layer_rows.push_back(rows.data() + layer * static_cast<int64_t>(sequences.size()));
  }
  model::ForwardBatch view() const {
    return {tokens,
            {static_cast<int64_t>(tokens.size()), first_row.data(), first_position.data()},
            layer_rows.data()};
  }
};

class DecodeStep : public ::testing::TestWithParam<const char*> {};

// Steps over more than a block of every ratio, with MTP blocks and sampled tokens, for one sequence
// and for several of different lengths.
TEST_P(DecodeStep, AllocatesNothing) {
  const model::Precision precision = model::parse_precision(GetParam()).value();
  formats::WeightSource source = formats::WeightSource::open(testing::nano()).value();
  formats::ModelConfig config = source.config();
  config.num_nextn_predict_layers = source.num_mtp_blocks();
  // Not load(): it has a thread that keeps packed weights, at a moment of its own.
  const auto loaded =
      LoadedModel::create(std::move(config),
                          std::make_unique<model::CheckpointWeights>(std::move(source)),
                          {.path = {}, .precision = GetParam(), .threads = 2})
          .value();
  const model::Transformer& model = loaded->transformer();
  device::ExecContext& ctx = loaded->context();
  const auto pool =
      cache::BlockPool::create(model_cache_layout(model.config(), precision, {}).value(),
                               {.max_blocks = 40, .max_sequences = 8})
          .value();
  const int64_t width = model.num_streams() * model.config().hidden_size;
  const int64_t vocab_size = model.config().vocab_size;
  for (const int64_t count : {1, 5}) {
    std::vector<cache::SequenceCache> sequences;
    Runner runner(model, ctx);
    for (int64_t i = 0; i < count; ++i) {
      sequences.push_back(cache::SequenceCache::create(*pool).value());
      const std::vector<int32_t> prompt(static_cast<size_t>(100 + 37 * i), 5);
      std::vector<float> streams(prompt.size() * static_cast<size_t>(width));
      const StepInput input{&sequences.back(), prompt};
      ASSERT_TRUE(runner.forward({&input, 1}, streams.data()).ok());
    }
    SamplingParams params;
    params.top_p = 0.9;
    params.repetition_penalty = 1.1;
    RequestSampling sampling(params, vocab_size);
    std::vector<float> streams(static_cast<size_t>(count * width)), drafted(streams.size());
    std::vector<float> logits(static_cast<size_t>(count * vocab_size));
    std::vector<int64_t> rows(static_cast<size_t>(count));
    std::iota(rows.begin(), rows.end(), 0);
    std::vector<ops::SamplingRow> sampling_rows(rows.size());
    std::vector<ops::SampledToken> tokens(rows.size());
    int64_t allocated = 0;
    for (int64_t step = 0; step < 140; ++step) {
      for (cache::SequenceCache& sequence : sequences)
        ASSERT_TRUE(sequence.reserve(sequence.num_tokens() + 1).ok());
      const DecodeBatch batch(sequences, model.config().num_all_layers(), step);
      const model::ForwardBatch view = batch.view();
      const int64_t of_step = allocations_of([&] {
        model.forward(ctx, view, streams.data());
        model.logits(ctx, streams.data(), rows, logits.data());
        for (ops::SamplingRow& row : sampling_rows) row = sampling.row(step);
        ops::sample(ctx, {logits.data(), vocab_size, count, vocab_size, sampling_rows.data(),
                          tokens.data()});
        for (const ops::SampledToken& token : tokens) sampling.add_output(token.id);
        model.mtp_forward(ctx, 0, view, streams.data(), drafted.data());
        model.mtp_logits(ctx, 0, drafted.data(), rows, logits.data());
      });
      for (cache::SequenceCache& sequence : sequences) sequence.advance(1);
      if (step > 0) allocated += of_step;  // the first one may find the arena's peak
    }
    EXPECT_EQ(allocated, 0) << count << " sequences";
  }
}

// The engine's loop: plans, steps, drafts, sampling and events of eight answers. Exceptions: where
// an answer fills a block, the prefix cache takes it over; long answers and sequences grow by
// doubling (4,096 tokens, 16 blocks); the pool's slabs come as they are first used.
TEST(TokenLoop, OfEightSequencesAllocatesNothing) {
  for (const bool has_prefix_cache : {false, true}) {
    formats::WeightSource source = formats::WeightSource::open(testing::nano()).value();
    formats::ModelConfig config = source.config();
    config.num_nextn_predict_layers = source.num_mtp_blocks();
    auto loaded = LoadedModel::create(std::move(config),
                                      std::make_unique<model::CheckpointWeights>(std::move(source)),
                                      {.path = {}, .threads = 2})
                      .value();
    EngineOptions options;
    options.cache_bytes = int64_t{64} << 20;
    if (has_prefix_cache) options.prefix_cache.emplace();
    const auto engine = Engine::create(std::move(loaded), options).value();
    int64_t written = 0;
    bool fills_block = false;
    for (int64_t i = 0; i < 8; ++i) {
      Request request;
      request.prompt = testing::manual_page(100 + 3 * i);
      request.max_new_tokens = 2000;
      request.sampling.temperature = i % 2 == 0 ? 0.0 : 0.9;
      request.sampling.top_p = 0.9;
      request.sampling.repetition_penalty = 1.1;
      request.num_drafts = i % 4 == 0 ? 2 : 0;
      request.adapts_drafts = false;
      request.on_event = [&written, &fills_block,
                          length = 100 + 3 * i](const Event& event) mutable {
        if (event.kind != Event::Kind::token) return true;
        ++written;
        ++length;
        fills_block = fills_block || length % 256 < 4;  // with the last of its tokens, or drafts
        return true;
      };
      ASSERT_TRUE(engine->submit(std::move(request)).has_value());
    }
    for (int i = 0; i < 40; ++i) engine->step();
    written = 0;
    int64_t allocated = 0;
    for (int i = 0; i < 200; ++i) {
      fills_block = false;
      const int64_t of_step = allocations_of([&] { engine->step(); });
      if (!has_prefix_cache || !fills_block) allocated += of_step;
    }
    EXPECT_EQ(allocated, 0) << has_prefix_cache;
    EXPECT_GE(written, 8 * 200);
  }
}

INSTANTIATE_TEST_SUITE_P(Precisions, DecodeStep, ::testing::Values("exact", "bf16", "official"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace cachalot::engine
