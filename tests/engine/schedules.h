// Random schedules: requests of every kind that come, are cancelled, take each other's room, draft
// and fork, begin behind what earlier ones left in memory and on disk, at random moments of an
// engine with little room. Each answer must have the bits that it has alone.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <map>
#include <optional>

#include "base/rng.h"
#include "cache/disk_store_testing.h"
#include "engine/small_model.h"

namespace cachalot::engine::testing {

struct ScheduleCounts {
  int64_t answers = 0;
  int64_t preemptions = 0;
  int64_t forks = 0;
  int64_t accepted_drafts = 0;
  int64_t rejected_drafts = 0;
  int64_t hits = 0;  // of the prefix cache
  int64_t partial_hits = 0;
  int64_t disk_hits = 0;
  int64_t rebuilt_hits = 0;  // whose state was made again
  int64_t evicted_blocks = 0;
  int64_t gone_on = 0;                 // steps
  std::map<Phase, int64_t> cancelled;  // by the phase that the cancel came in

  void print() const {
    std::printf("answers %ld, preemptions %ld, forks %ld, drafts accepted %ld, rejected %ld",
                answers, preemptions, forks, accepted_drafts, rejected_drafts);
    std::printf(", hits %ld, partial %ld, disk %ld, rebuilt %ld, evicted blocks %ld, gone on %ld",
                hits, partial_hits, disk_hits, rebuilt_hits, evicted_blocks, gone_on);
    for (const auto& [phase, count] : cancelled)
      std::printf(", cancelled %s %ld", std::string(phase_name(phase)).c_str(), count);
    std::printf("\n");
  }
  void expect_at_least(int64_t least) const {
    EXPECT_GE(preemptions, least);
    EXPECT_GE(forks, least);
    EXPECT_GE(accepted_drafts, least);
    EXPECT_GE(rejected_drafts, least);
    EXPECT_GE(hits, least);
    EXPECT_GE(partial_hits, least);
    EXPECT_GE(disk_hits, least);
    EXPECT_GE(rebuilt_hits, least);
    EXPECT_GE(evicted_blocks, least);
    EXPECT_GE(gone_on, least);
    for (const Phase phase : {Phase::waiting, Phase::prefilling, Phase::decoding, Phase::paused}) {
      const auto found = cancelled.find(phase);
      EXPECT_GE(found == cancelled.end() ? 0 : found->second, least) << phase_name(phase);
    }
  }
};

class Schedules {
 public:
  // device: what the schedules run on; each answer alone runs on the CPU.
  explicit Schedules(std::string device = "cpu") : device_(std::move(device)) {}

  // Schedules first, first + 1, ...
  ScheduleCounts run(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count && !::testing::Test::HasFailure(); ++i) run_one(i);
    return counts_;
  }

 private:
  static constexpr uint64_t kKinds = 120;
  static constexpr int64_t kMaxPrompt = 44, kMaxNew = 20;

  static RngStream stream(uint64_t index) { return {41, RngPurpose::data, index}; }
  static int64_t below(RngStream& rng, int64_t n) {
    return static_cast<int64_t>(rng.next_u32() % static_cast<uint32_t>(n));
  }

  // What is asked, without how it is to be run.
  static Request kind(uint64_t index) {
    RngStream rng = stream(index);
    Request one;
    one.prompt.resize(static_cast<size_t>(1 + below(rng, kMaxPrompt)));
    for (int32_t& id : one.prompt) id = static_cast<int32_t>(below(rng, 12));
    // Some texts begin alike.
    const std::vector<int32_t> start = random_ids(below(rng, kMaxPrompt), index % 4);
    std::copy_n(start.begin(), std::min(start.size(), one.prompt.size()), one.prompt.begin());
    one.max_new_tokens = below(rng, 8) == 0 ? below(rng, 2) : 1 + below(rng, kMaxNew);
    one.sampling.seed = index * 100;
    one.sampling.temperature =
        below(rng, 3) == 0 ? 0.0 : 0.4 + 0.1 * static_cast<double>(index % 8);
    if (below(rng, 3) == 0) one.sampling.repetition_penalty = 1.2;
    if (below(rng, 4) == 0) one.stop_tokens = {static_cast<int32_t>(below(rng, 12))};
    one.wants_prompt_logprobs = below(rng, 4) == 0;
    one.wants_choices = below(rng, 4) == 0;
    one.wants_allowed_sets = below(rng, 4) == 0;
    return one;
  }

  const Completion& alone(uint64_t index, int64_t answer) {
    auto& kept = alone_[{index, answer}];
    if (kept) return *kept;
    if (engine_ == nullptr) engine_ = SmallEngine{.num_blocks = 32, .chunk_tokens = 64}.make();
    Request one = kind(index);
    one.sampling.seed += static_cast<uint64_t>(answer);
    const SequenceId id = engine_->open().value();
    kept = engine_->generate(id, std::move(one)).value();
    engine_->close(id);
    return *kept;
  }

  // Bit for bit: some are NaN.
  static bool same_logprobs(const std::vector<double>& a, const std::vector<double>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](double x, double y) {
      return std::bit_cast<uint64_t>(x) == std::bit_cast<uint64_t>(y);
    });
  }
  template <typename T>
  static bool is_start(const std::vector<T>& start, const std::vector<T>& whole) {
    return start.size() <= whole.size() && std::equal(start.begin(), start.end(), whole.begin());
  }
  static bool are_starts(const std::vector<std::vector<int32_t>>& start,
                         const std::vector<std::vector<int32_t>>& whole) {
    if (start.empty()) return true;
    for (size_t i = 0; i < start.size(); ++i) {
      if (!is_start(start[i], whole[i])) return false;
    }
    return start.size() == whole.size();
  }

  void check(uint64_t index, int64_t answer, const Result<Completion>& result) {
    ASSERT_TRUE(result.has_value()) << result.error().message();
    const Completion& found = *result;
    const Completion& expected = alone(index, answer);
    ++counts_.answers;
    if (found.finish == Finish::cancelled) {
      EXPECT_TRUE(is_start(found.ids, expected.ids));
      EXPECT_TRUE(is_start(found.logprobs, expected.logprobs));
      EXPECT_TRUE(are_starts(found.choices.experts, expected.choices.experts));
      EXPECT_TRUE(are_starts(found.choices.selected, expected.choices.selected));
      return;
    }
    EXPECT_EQ(found.finish, expected.finish);
    EXPECT_EQ(found.ids, expected.ids);
    EXPECT_TRUE(same_logprobs(found.logprobs, expected.logprobs));
    EXPECT_TRUE(same_logprobs(found.prompt_logprobs, expected.prompt_logprobs));
    EXPECT_EQ(found.choices.experts, expected.choices.experts);
    EXPECT_EQ(found.choices.selected, expected.choices.selected);
    EXPECT_EQ(found.allowed_sets, expected.allowed_sets);
  }

  // None, or one of little room; a few of all share a folder.
  std::optional<cache::PrefixCacheOptions> prefix_cache(RngStream& rng) const {
    if (below(rng, 4) == 0) return std::nullopt;
    cache::PrefixCacheOptions options;
    options.states.strategy = static_cast<cache::StateStrategy>(below(rng, 3));
    options.states.period_tokens = 8 * (1 + below(rng, 3));
    options.states.keeps_ends = below(rng, 2) == 0;
    options.max_state_bytes = int64_t{1} << (12 + below(rng, 8));
    if (below(rng, 5) == 0) {
      options.directory = folder_.path();
      options.max_disk_bytes = int64_t{1} << 26;
    }
    return options;
  }

  struct Coming {
    uint64_t kind;
    Request request;
    int64_t at_step;
    std::optional<Phase> cancelled_in;
    int64_t cancelled_after = 0;  // steps that it has been in it
    RequestId id = -1;
    int64_t finished = 0;
  };

  void run_one(uint64_t schedule) {
    SCOPED_TRACE("schedule " + std::to_string(schedule));
    RngStream rng = stream(uint64_t{1} << 32 | schedule);
    // Room for the longest alone, and little more.
    const SmallEngine small{.threads = static_cast<int>(1 + below(rng, 3)),
                            .max_sequences = 1 + below(rng, 6),
                            .num_blocks = 9 + below(rng, 14),
                            .chunk_tokens = 1 + below(rng, 24),
                            .prefix_cache = prefix_cache(rng),
                            .device = device_,
                            .goes_on = below(rng, 2) == 0};
    auto engine = small.make();
    std::vector<Coming> all(static_cast<size_t>(2 + below(rng, 9)));
    for (Coming& one : all) {
      one.kind = static_cast<uint64_t>(below(rng, kKinds));
      one.request = kind(one.kind);
      one.request.num_answers = below(rng, 3) == 0 ? 2 + below(rng, 2) : 1;
      // A step of drafts is not gone on from.
      one.request.num_drafts = *small.goes_on && below(rng, 4) > 0 ? 0 : below(rng, 5);
      one.request.adapts_drafts = below(rng, 2) == 0;
      one.request.priority = static_cast<int32_t>(below(rng, 3));
      one.at_step = below(rng, 20);
      if (below(rng, 3) == 0) {
        one.cancelled_in = static_cast<Phase>(below(rng, 4));
        one.cancelled_after = below(rng, 3);
      }
    }
    bool is_busy = true;
    for (int64_t step = 0; is_busy || step <= 20; ++step) {
      ASSERT_LT(step, 20000);
      for (Coming& one : all) {
        if (one.at_step == step) {
          Request request = one.request;
          request.on_event = [this, &one](const Event& event) {
            if (event.kind == Event::Kind::finished) {
              ++one.finished;
              check(one.kind, event.answer, *event.result);
            }
            return true;
          };
          one.id = engine->submit(std::move(request)).value();
        } else if (one.id >= 0 && one.cancelled_in && engine->phase(one.id) == one.cancelled_in &&
                   one.cancelled_after-- == 0) {
          engine->cancel(one.id);
          ++counts_.cancelled[*one.cancelled_in];
          one.cancelled_in.reset();
        }
      }
      is_busy = engine->step();
    }
    for (const Coming& one : all) EXPECT_EQ(one.finished, one.request.num_answers);
    const EngineCounts& counts = engine->counts();
    counts_.preemptions += counts.preemptions;
    counts_.forks += counts.forks;
    counts_.accepted_drafts += counts.accepted;
    counts_.rejected_drafts += counts.drafted - counts.accepted;
    const cache::PrefixCounters prefix = engine->prefix_counters();
    counts_.hits += prefix.hits;
    counts_.partial_hits += prefix.partial_hits;
    counts_.disk_hits += prefix.disk_hits;
    counts_.evicted_blocks += prefix.evicted_blocks;
    counts_.gone_on += counts.gone_on;
    if (small.prefix_cache && small.prefix_cache->states.strategy == cache::StateStrategy::zero)
      counts_.rebuilt_hits += prefix.hits;
  }

  std::string device_;
  cache::testing::TestFolder folder_;
  std::unique_ptr<Engine> engine_;  // where they are alone
  std::map<std::pair<uint64_t, int64_t>, std::optional<Completion>> alone_;
  ScheduleCounts counts_;
};

}  // namespace cachalot::engine::testing
