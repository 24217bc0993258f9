// The whole forward on a GPU against the CPU's: every op's result, the streams and the logits have
// the same bits, in a prompt, in its pieces and in decode.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "base/rng.h"
#include "base/test_data.h"
#include "device/floats.h"
#include "engine/loaded_model.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"
#include "formats/presets.h"
#include "model/random_weights.h"

namespace cachalot {
namespace {

using Values = std::vector<float>;

// What the model makes, in the order of its calls.
class Recorder : public model::ForwardProbe {
 public:
  explicit Recorder(const formats::ModelConfig& config) : config_(config) {}
  void on_op(std::string_view name, const float* values, int64_t rows, int64_t columns,
             int64_t stride) override {
    if (!keeps_ops) return;
    Values& kept = add(std::string(name));
    for (int64_t row = 0; row < rows; ++row)
      kept.insert(kept.end(), values + row * stride, values + row * stride + columns);
  }
  void on_router(int64_t layer, const int32_t* ids, const float*, int64_t rows) override {
    add(ids, rows * config_.num_experts_per_tok, "experts of layer " + std::to_string(layer));
  }
  void on_selection(int64_t layer, const int32_t* selected, int64_t rows) override {
    add(selected, rows * config_.index_topk, "picks of layer " + std::to_string(layer));
  }
  void add(const int32_t* values, int64_t count, std::string name) {
    Values& kept = add(std::move(name));
    kept.assign(values, values + count);
  }
  Values& add(std::string name) {
    names.push_back(std::move(name));
    return results.emplace_back();
  }

  void on_streams(int64_t layer, const float* streams, int64_t rows) override {
    const int64_t count = rows * config_.hc_dim();
    add("streams of layer " + std::to_string(layer)).assign(streams, streams + count);
  }

  bool keeps_ops = true;
  std::vector<std::string> names;
  std::vector<Values> results;

 private:
  const formats::ModelConfig& config_;
};

// Steps of a model on one device, recorded.
class Run {
 public:
  Run(std::unique_ptr<engine::LoadedModel> loaded, int64_t num_ids) : Run(*loaded, num_ids) {
    owned_ = std::move(loaded);
  }
  Run(engine::LoadedModel& loaded, int64_t num_ids)
      : loaded_(&loaded),
        recorder(config()),
        pool_(cache::BlockPool::create(
                  engine::model_cache_layout(config(), model().precision(), {}).value(),
                  {.max_blocks = 32, .max_sequences = 2}, ctx().gpu)
                  .value()),
        runner_(model(), ctx()),
        first(cache::SequenceCache::create(*pool_).value()),
        second(cache::SequenceCache::create(*pool_).value()),
        ids_(static_cast<size_t>(num_ids)),
        streams_(ctx()),
        logits_(ctx()),
        drafted_(ctx()) {
    RngStream rng(5, RngPurpose::data, 0);
    for (int32_t& id : ids_) id = static_cast<int32_t>(rng.next_u32() % config().vocab_size);
  }
  const model::Transformer& model() const { return loaded_->transformer(); }
  const formats::ModelConfig& config() const { return model().config(); }
  device::ExecContext& ctx() { return loaded_->context(); }
  std::span<const int32_t> ids(int64_t begin, int64_t count) const {
    return std::span(ids_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
  }

  // And the logits of the last rows. Probed: with what the layers make; nothing waits for the
  // device in between otherwise.
  void step(std::vector<engine::StepInput> inputs, bool is_probed = true,
            int64_t most_logits = 300) {
    int64_t rows = 0;
    for (const engine::StepInput& input : inputs) rows += static_cast<int64_t>(input.tokens.size());
    streams_.make_room(rows * width());
    ASSERT_TRUE(runner_.forward(inputs, streams_.data(), is_probed ? &recorder : nullptr).ok());
    std::vector<int64_t> chosen(static_cast<size_t>(std::min(rows, most_logits)));
    std::iota(chosen.begin(), chosen.end(), rows - static_cast<int64_t>(chosen.size()));
    const int64_t count = static_cast<int64_t>(chosen.size()) * config().vocab_size;
    logits_.make_room(count);
    model().logits(ctx(), streams_.data(), chosen, logits_.data(), is_probed ? &recorder : nullptr);
    const float* found = logits_.on_host(count);
    recorder.add("step's logits").assign(found, found + count);
  }
  // The MTP block over the first sequence's last step, of `rows` rows from position `first`.
  void draft(int64_t first_position, int64_t rows) {
    drafted_.make_room(rows * width());
    const engine::StepInput after{&first, ids(first_position + 1, rows)};
    ASSERT_TRUE(runner_
                    .mtp_forward(0, {&after, 1}, {&first_position, 1}, streams_.data(),
                                 drafted_.data(), &recorder)
                    .ok());
  }

 private:
  int64_t width() const { return model().num_streams() * config().hidden_size; }
  std::unique_ptr<engine::LoadedModel> owned_;
  engine::LoadedModel* loaded_;

 public:
  Recorder recorder;

 private:
  std::unique_ptr<cache::BlockPool> pool_;
  engine::Runner runner_;

 public:
  cache::SequenceCache first, second;

 private:
  std::vector<int32_t> ids_;
  device::Floats streams_, logits_, drafted_;
};

void expect_same(const Recorder& found, const Recorder& expected) {
  ASSERT_EQ(found.names, expected.names);
  int num_shown = 0;
  for (size_t i = 0; i < found.names.size() && num_shown < 12; ++i) {
    ASSERT_EQ(found.results[i].size(), expected.results[i].size());
    int64_t num_different = 0, first = -1;
    for (size_t k = 0; k < found.results[i].size(); ++k) {
      const float a = found.results[i][k], b = expected.results[i][k];
      if (std::memcmp(&a, &b, sizeof(a)) == 0 || (a != a && b != b)) continue;
      if (num_different++ == 0) first = static_cast<int64_t>(k);
    }
    if (num_different == 0) continue;
    ++num_shown;
    ADD_FAILURE() << "result " << i << " of " << found.names.size() << ", " << found.names[i]
                  << ": " << num_different << " of " << found.results[i].size()
                  << " differ, the first at " << first << ": " << found.results[i][first]
                  << ", expected " << expected.results[i][first];
  }
}

struct Case {
  const char* model;
  const char* precision;
};

// One prompt in pieces, beside a second sequence, then its logits and the MTP block's.
Recorder run(const Case& c, const char* device) {
  Run run(engine::LoadedModel::load(
              {.path = test_data(c.model), .precision = c.precision, .device = device})
              .value(),
          700);
  run.step({{&run.first, run.ids(0, 290)}});
  run.step({{&run.second, run.ids(300, 77)}, {&run.first, run.ids(290, 5)}});
  for (int64_t i = 0; i < 6; ++i)
    run.step({{&run.first, run.ids(295 + i, 1)}, {&run.second, run.ids(377 + i, 1)}});
  if (run.config().num_nextn_predict_layers > 0) {
    run.step({{&run.first, run.ids(301, 9)}});
    run.draft(301, 8);
  }
  // As an engine decodes: the same launches again and again, with other arguments now and then.
  const auto first = run.first.num_tokens(), second = run.second.num_tokens();
  for (int64_t i = 0; i < 140; ++i)
    run.step({{&run.first, run.ids(first + i, 1)}, {&run.second, run.ids(second + i, 1)}}, false);
  return std::move(run.recorder);
}

// Random weights of Flash's shapes: a window layer, CSA with a hash table, HCA, CSA.
std::unique_ptr<engine::LoadedModel> flash_layers(const char* device, const char* precision,
                                                  int threads = 0) {
  formats::ModelConfig config = formats::flash_config();
  config.num_hidden_layers = 4;
  config.num_nextn_predict_layers = 0;
  config.num_hash_layers = 2;
  config.compress_ratios = {0, 4, 128, 4};
  config.vocab_size = 4096;
  return engine::LoadedModel::random(
             config, 3, {.path = "", .precision = precision, .device = device, .threads = threads})
      .value();
}

Recorder run_flash_layers(const char* device) {
  Run run(flash_layers(device, "official"), 4096 + 64 + 1);
  run.recorder.keeps_ops = false;
  run.step({{&run.first, run.ids(0, 4096)}});
  run.recorder.keeps_ops = true;
  run.step({{&run.first, run.ids(4096, 64)}});
  run.step({{&run.first, run.ids(4160, 1)}});
  return std::move(run.recorder);
}

class Forward : public ::testing::TestWithParam<Case> {};

TEST_P(Forward, HasTheBitsOfTheCpu) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  const Recorder expected = run(GetParam(), "cpu"), found = run(GetParam(), "cuda");
  expect_same(found, expected);
}

TEST(ForwardAtFullWidth, HasTheBitsOfTheCpu) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  const Recorder expected = run_flash_layers("cpu"), found = run_flash_layers("cuda");
  expect_same(found, expected);
}

// A prompt of kRows rows, cut at `cuts`, each piece beside a token of another sequence or not. The
// last 250 rows see more entries than they pick.
constexpr int64_t kRows = 2300;
struct Pieces {
  std::vector<int64_t> cuts;
  bool beside_another;
};
// The last streams of each row, row after row, and the last row's logits; the picks of each row in
// the last layer.
struct Results {
  Values streams, picks;
};
Results results_of_rows(engine::LoadedModel& loaded, const Pieces& pieces) {
  Run run(loaded, kRows);
  run.recorder.keeps_ops = false;
  Values rows, picks;
  for (size_t i = 0; i + 1 < pieces.cuts.size(); ++i) {
    const int64_t first = pieces.cuts[i], count = pieces.cuts[i + 1] - first;
    std::vector<engine::StepInput> inputs{{&run.first, run.ids(first, count)}};
    if (pieces.beside_another) inputs.push_back({&run.second, run.ids(first, 1)});
    run.step(std::move(inputs));
    Values last, logits;
    for (size_t k = 0; k < run.recorder.names.size(); ++k) {
      if (run.recorder.names[k] == "streams of layer 3") last = run.recorder.results[k];
      if (run.recorder.names[k] == "step's logits") logits = run.recorder.results[k];
      if (run.recorder.names[k] != "picks of layer 3") continue;
      const auto begin = run.recorder.results[k].begin();
      picks.insert(picks.end(), begin, begin + count * run.config().index_topk);
    }
    rows.insert(rows.end(), last.begin(), last.begin() + count * run.config().hc_dim());
    if (i + 2 == pieces.cuts.size()) {
      const auto end = logits.end() - (pieces.beside_another ? run.config().vocab_size : 0);
      rows.insert(rows.end(), end - run.config().vocab_size, end);
    }
    run.recorder.names.clear();
    run.recorder.results.clear();
  }
  return {std::move(rows), std::move(picks)};
}

// Of the picks of rows with more entries than picks, the share that is not among the other's.
double share_of_others(const Values& picks, const Values& others, int64_t topk) {
  int64_t num_other = 0, count = 0;
  for (auto row = picks.begin(); row < picks.end(); row += topk) {
    if (row[topk - 1] < static_cast<float>(topk)) continue;
    const auto other = others.begin() + (row - picks.begin());
    for (auto pick = row; pick < row + topk; ++pick)
      num_other += std::binary_search(other, other + topk, *pick) ? 0 : 1;
    count += topk;
  }
  return static_cast<double>(num_other) / static_cast<double>(count);
}

double distance(const Values& a, const Values& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

// A row's bits at official-fp8 do not depend on how the prompt is cut and what runs beside it.
// The level is as near to exact as official is: a product that truncates errs by 2e-4 of the sum of
// its terms' magnitudes (streamed_product.cuh), which of 4096 random terms is 0.64 sqrt(4096) times
// their sum's, so by 0.8 %; that of rounding x to e4m3 is 2^-4 / sqrt(12) = 1.8 % at
// the least: together sqrt(1 + (0.8 / 1.8)^2) = 1.09 of it. Of two such results, each rounded in
// its own way, the distance is at most sqrt(1 + 1.09^2) = 1.48 of official's from exact. Picks
// change as the streams before them do, in proportion.
TEST(OfficialFp8, ARowDoesNotDependOnTheOthersAndIsAsNearToExact) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  const std::vector<int64_t> whole = {0, kRows};
  Results expected;
  {
    const auto loaded = flash_layers("cuda", "official-fp8");
    expected = results_of_rows(*loaded, {whole, false});
    for (const Pieces& pieces :
         {Pieces{whole, true}, Pieces{{0, 100, 2290, 2295, kRows}, false},
          Pieces{{0, 1, 3, 20, 128, 129, 2030, 2100, 2101, 2299, kRows}, true}}) {
      const Results found = results_of_rows(*loaded, pieces);
      ASSERT_EQ(found.streams.size(), expected.streams.size());
      int64_t num_different = 0;
      for (size_t i = 0; i < found.streams.size(); ++i)
        num_different += found.streams[i] != expected.streams[i];
      EXPECT_EQ(found.picks, expected.picks);
      EXPECT_EQ(num_different, 0) << "pieces " << pieces.cuts.size() - 1 << ", beside another "
                                  << pieces.beside_another;
    }
  }
  const Results official = results_of_rows(*flash_layers("cuda", "official"), {whole, false});
  const Results exact = results_of_rows(*flash_layers("cuda", "exact"), {whole, false});
  const double of_official = distance(official.streams, exact.streams),
               found = distance(expected.streams, exact.streams),
               between = distance(expected.streams, official.streams);
  std::printf("from exact: official %g, official-fp8 %g; between them %g\n", of_official, found,
              between);
  EXPECT_LT(found, 1.09 * of_official);
  EXPECT_LT(between, 1.48 * of_official);
  EXPECT_GT(between, 0);
  const int64_t topk = formats::flash_config().index_topk;
  const double picks_of_official = share_of_others(official.picks, exact.picks, topk),
               picks_found = share_of_others(expected.picks, exact.picks, topk),
               picks_between = share_of_others(expected.picks, official.picks, topk);
  std::printf("other picks than exact: official %g, official-fp8 %g; between them %g\n",
              picks_of_official, picks_found, picks_between);
  EXPECT_LT(picks_found, 1.09 * picks_of_official);
  EXPECT_LT(picks_between, 1.48 * picks_of_official);
}

// The logits of a prompt's rows, `piece` rows a step, as the engine runs them.
Values logits_of_rows(engine::LoadedModel& loaded, int64_t rows, int64_t piece) {
  Run run(loaded, rows);
  for (int64_t i = 0; i < rows; i += piece)
    run.step({{&run.first, run.ids(i, piece)}}, false, piece);
  Values all;
  for (const Values& logits : run.recorder.results)
    all.insert(all.end(), logits.begin(), logits.end());
  return all;
}

// reference/infrastructure 8.1, V1.
TEST(OfficialFp8, TokenByTokenHasTheBitsOfThePrompt) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  const auto loaded = flash_layers("cuda", "official-fp8");
  constexpr int64_t kTokens = 1025;
  const Values expected = logits_of_rows(*loaded, kTokens, kTokens),
               found = logits_of_rows(*loaded, kTokens, 1);
  const int64_t vocab = loaded->transformer().config().vocab_size;
  ASSERT_EQ(expected.size(), static_cast<size_t>(kTokens * vocab));
  const auto at = std::mismatch(found.begin(), found.end(), expected.begin(), expected.end());
  EXPECT_TRUE(at.first == found.end()) << "token " << (at.first - found.begin()) / vocab;
}

// Of the last rows of a prompt of kRows, `piece` rows a step.
constexpr int64_t kLastRows = 230;
static_assert(kRows % kLastRows == 0);
Values last_logits(engine::LoadedModel& loaded, int64_t piece) {
  Run run(loaded, kRows);
  for (int64_t i = 0; i < kRows; i += piece)
    run.step({{&run.first, run.ids(i, piece)}}, false, kLastRows);
  return run.recorder.results.back();
}

// The index's queries of rows that take all entries that they see are not made in a long step.
TEST(OfficialFp8, QueriesThatAreNotMadeChangeNoBit) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  const auto loaded = flash_layers("cuda", "official-fp8");
  EXPECT_TRUE(last_logits(*loaded, kRows) == last_logits(*loaded, kLastRows));
}

// reference/infrastructure 4.4, K5: of the host's threads, as of runs.
TEST(OfficialFp8, ThreadsAndRunsChangeNoBit) {
  if (const auto gpu = device::Gpu::open(0); !gpu) GTEST_SKIP() << gpu.error().message();
  constexpr int64_t kTokens = 600;
  Values expected;
  for (const int threads : {1, 3}) {
    const auto loaded = flash_layers("cuda", "official-fp8", threads);
    for (const int64_t piece : {kTokens, kTokens, int64_t{1}, int64_t{1}}) {
      const Values found = logits_of_rows(*loaded, kTokens, piece);
      if (expected.empty()) expected = found;
      EXPECT_TRUE(found == expected) << threads << " threads, pieces of " << piece;
    }
  }
}

TEST(OfficialFp8, IsRefusedOnACpu) {
  const auto loaded = engine::LoadedModel::load(
      {.path = test_data("golden/quant"), .precision = "official-fp8", .device = "cpu"});
  ASSERT_FALSE(loaded.has_value());
  EXPECT_EQ(loaded.error().message(), "precision official-fp8: expected device cuda, found cpu");
}

INSTANTIATE_TEST_SUITE_P(
    Models, Forward,
    ::testing::Values(Case{"golden/tiny", "exact"}, Case{"golden/clamp", "exact"},
                      Case{"golden/quant", "exact"}, Case{"golden/quant", "bf16"},
                      Case{"golden/quant", "official"}, Case{"../models/nano", "official"},
                      Case{"../models/nano", "exact"}));

}  // namespace
}  // namespace cachalot
