// Muon against AdamW on a small model and real text: text.bin.zst is what the documents of this
// project were on 2026-11-27, in the tokens of tests/tokenizer/peer-tokenizer.json, two bytes each.
// Built with the planted faults: one of them leaves out the norm of queries.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/test_data.h"
#include "data/byte_stream.h"
#include "planted.h"
#include "trainer_testing.h"
#include "verify/reference64.h"

namespace cachalot::train {
namespace {

constexpr int64_t kPacks = 8;  // of a step
constexpr int32_t kVocabulary = 2048;
constexpr int64_t kHeldOut = 32 * kSequence;  // at the end of the text

std::vector<int32_t> text() {
  const auto stream = data::ByteStream::open(test_data("train/text.bin.zst")).value();
  std::vector<int32_t> ids;
  for (unsigned char token[2]; stream->read({reinterpret_cast<char*>(token), 2}).value() == 2;)
    ids.push_back(token[0] | token[1] << 8);
  EXPECT_GT(ids.size(), 60000u);
  return ids;
}

RunConfig run_of(int64_t steps, double learning_rate, uint64_t seed) {
  RunConfig config;
  config.packs_per_call = config.packs_per_step = kPacks;
  config.total_tokens = steps * kPacks * kSequence;
  config.learning_rate = learning_rate;
  config.weight_seed = seed;
  config.data_seed = seed;
  config.change = [](formats::ModelConfig& model) { model.vocab_size = kVocabulary; };
  std::vector<int32_t> ids = text();
  ids.resize(ids.size() - kHeldOut);
  config.text =
      std::make_shared<data::MemorySource>(std::vector<std::vector<int32_t>>{std::move(ids)});
  return config;
}

double held_out_loss(TestRun& run) {
  const std::vector<int32_t> ids = text();
  std::vector<int32_t> labels(ids.begin() + 1, ids.end());
  labels.push_back(-1);
  std::vector<Sample> samples;
  for (size_t at = ids.size() - kHeldOut; at < ids.size(); at += kSequence) {
    samples.push_back(
        {std::span(ids).subspan(at, kSequence), std::span(labels).subspan(at, kSequence)});
  }
  const LossSums sums = run.trainer().model().losses(run.trainer().context(), samples, {1, 0});
  return sums.lm / static_cast<double>(sums.lm_targets);
}

// What AdamW reaches at its last step Muon has reached before: with the same learning rate, for
// each of three, and two seeds.
TEST(MuonRuns, ReachesAdamwsLastLossInFewerSteps) {
  constexpr int64_t kSteps = 120, kEvery = 10;
  for (const double rate : {0.002, 0.004, 0.008}) {
    for (const uint64_t seed : {1, 2}) {
      RunConfig config = run_of(kSteps, rate, seed);
      TestRun muon(config);
      config.trainer.optimizer.grouping.muon = false;
      TestRun adamw(config);
      adamw.losses(kSteps);
      const double goal = held_out_loss(adamw);
      int64_t step = 0;
      double loss = 0;
      do {
        muon.losses(kEvery);
        step += kEvery;
        loss = held_out_loss(muon);
      } while (loss > goal && step < kSteps);
      fmt::print("rate {}, seed {}: AdamW {:.4f} after {} steps, Muon {:.4f} after {}\n", rate,
                 seed, goal, kSteps, loss, step);
      EXPECT_LE(loss, goal);
      EXPECT_LT(step, kSteps);
    }
  }
}

// A normed query has norm sqrt(head_dim) and a normed key at most that times its largest norm
// weight, so their product over sqrt(head_dim) is bounded by this.
double logit_bound(TestRun& run) {
  float largest = 0;
  for (const Parameter& p : run.trainer().parameters().parameters()) {
    if (!p.info.name.ends_with("attn.kv_norm.weight") &&
        !p.info.name.ends_with("attn.compressor.norm.weight"))
      continue;
    for (const float weight : p.master) largest = std::max(largest, std::abs(weight));
  }
  return std::sqrt(static_cast<double>(run.config().head_dim)) * largest;
}

// The largest attention logit before training and after each of kParts parts of it, and the bound
// of normed queries there.
struct Logits {
  std::vector<double> largest, bound;
};
Logits logits_of(bool normed_queries) {
  constexpr int64_t kParts = 4, kSteps = 40;
  planted::turn_on(normed_queries ? "" : "query_head_norm_skipped");
  TestRun run(run_of(kParts * kSteps, 0.008, 1));
  const std::vector<int32_t> ids = text();
  Logits logits;
  for (int64_t part = 0; part <= kParts; ++part) {
    if (part > 0) run.losses(kSteps);
    const auto inside =
        verify::run_reference64(run.config(), run.trainer().parameters(),
                                std::span(ids).last(kSequence), false, normed_queries)
            .value();
    logits.largest.push_back(inside.max_attention_logit);
    logits.bound.push_back(logit_bound(run));
  }
  planted::turn_on("");
  fmt::print("largest logit, queries {}: {:.3g}; bound {:.3g}\n",
             normed_queries ? "normed" : "not normed", fmt::join(logits.largest, ", "),
             fmt::join(logits.bound, ", "));
  return logits;
}

// No QK-Clip: normed queries keep the logits below the bound, and without that norm they grow from
// part to part. Here to 5.7, eight times where they began; beyond the bound, as was expected of
// this test at first, they go at a rate of 0.03.
TEST(MuonRuns, AttentionLogitsStayBoundedWithTheQueryNormAndGrowWithoutIt) {
  const Logits normed = logits_of(true), bare = logits_of(false);
  for (size_t i = 0; i < normed.largest.size(); ++i)
    EXPECT_LE(normed.largest[i], normed.bound[i] * (1 + 1e-6));
  EXPECT_TRUE(std::is_sorted(bare.largest.begin(), bare.largest.end()));
}

}  // namespace
}  // namespace cachalot::train
