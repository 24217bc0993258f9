// An engine with a prefix cache: a request that begins behind what earlier ones left has the bits
// that it has alone.
// Source  reference/infrastructure 8.2, O1.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <thread>

#include "cache/disk_store_testing.h"
#include "engine/small_model.h"

namespace cachalot::engine {
namespace {

using cache::PrefixCacheOptions;
using cache::StatePolicy;
using cache::StateStrategy;
using testing::alone;
using testing::expect_same;
using testing::random_ids;
using testing::request;
using testing::run_all;
using testing::SmallEngine;

std::vector<int32_t> joined(std::vector<int32_t> start, const std::vector<int32_t>& end) {
  start.insert(start.end(), end.begin(), end.end());
  return start;
}

std::vector<int32_t> first_of(const std::vector<int32_t>& ids, int64_t count) {
  return {ids.begin(), ids.begin() + count};
}

Completion run_one(Engine& engine, Request one) {
  return run_all(engine, {std::move(one)})[0].value();
}

class PrefixHits : public ::testing::TestWithParam<StatePolicy> {
 protected:
  static SmallEngine small() {
    SmallEngine small;
    small.chunk_tokens = 64;  // over many blocks: states are where the cache stops a piece
    small.prefix_cache.emplace();
    small.prefix_cache->states = GetParam();
    return small;
  }
  // Of 45 tokens, 44 may be found: five blocks of 8, or as far as there is a state.
  static int64_t found_of_45() {
    const StatePolicy& policy = GetParam();
    return policy.strategy == StateStrategy::periodic && !policy.keeps_ends ? 32 : 40;
  }
};

TEST_P(PrefixHits, HaveTheBitsOfARunAlone) {
  auto engine = small().make();
  const std::vector<int32_t> first = random_ids(45, 1);
  const Completion answer = run_one(*engine, request(first, 12, 5));
  expect_same(answer, alone({}, request(first, 12, 5)));
  EXPECT_EQ(answer.prompt_tokens, 45);
  // The same text, drafts rejected right behind the hit and all.
  for (const int64_t drafts : {0, 4}) {
    Request again = request(first, 12, 6);
    again.num_drafts = drafts;
    again.adapts_drafts = false;
    const Completion hit = run_one(*engine, again);
    expect_same(hit, alone({}, request(first, 12, 6)));
    EXPECT_EQ(hit.prompt_tokens, 45 - found_of_45());
  }
  EXPECT_EQ(engine->prefix_counters().hits, 2);
  EXPECT_EQ(engine->prefix_counters().partial_hits, 0);
  // One whose prompt is found but for its last token decodes at once.
  const std::vector<int32_t> whole = first_of(first, 33);
  const Completion at_once = run_one(*engine, request(whole, 9, 7));
  expect_same(at_once, alone({}, request(whole, 9, 7)));
  // With states at ends alone there is none at its 32.
  const bool has_inner_states =
      GetParam().strategy != StateStrategy::periodic || !GetParam().keeps_ends;
  EXPECT_EQ(at_once.prompt_tokens, has_inner_states ? 1 : 33);
  // The next turn of a conversation, and one that parts from the first text in its middle.
  const std::vector<int32_t> next = joined(joined(first, answer.ids), random_ids(7, 2));
  const std::vector<int32_t> other = joined(first_of(first, 35), random_ids(20, 3));
  const int64_t partial = engine->prefix_counters().partial_hits;
  expect_same(run_one(*engine, request(next, 9, 8)), alone({}, request(next, 9, 8)));
  const Completion parted = run_one(*engine, request(other, 9, 9));
  expect_same(parted, alone({}, request(other, 9, 9)));
  EXPECT_EQ(engine->prefix_counters().partial_hits - partial, 1);
  EXPECT_EQ(parted.prompt_tokens, 55 - 32);
}

TEST_P(PrefixHits, AmongManyAtOnce) {
  SmallEngine many = small();
  many.threads = 2;
  auto engine = many.make();
  const std::vector<int32_t> start = random_ids(29, 1);
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 12; ++i) {
    requests.push_back(request(joined(start, random_ids(static_cast<int64_t>(i), i)), 10, i));
    requests.back().num_answers = i % 4 == 0 ? 2 : 1;
    requests.back().num_drafts = static_cast<int64_t>(i % 3);
  }
  for (int round = 0; round < 2; ++round) {
    const auto results = run_all(*engine, requests);
    size_t result = 0;
    for (uint64_t i = 0; i < 12; ++i) {
      for (int64_t answer = 0; answer < requests[i].num_answers; ++answer) {
        Request one = request(requests[i].prompt, 10, i + static_cast<uint64_t>(answer));
        expect_same(results[result++].value(), alone({}, one));
      }
    }
  }
  EXPECT_GE(engine->prefix_counters().hits, 12);
}

TEST_P(PrefixHits, AfterOthersHaveTakenTheRoom) {
  SmallEngine narrow = small();
  narrow.num_blocks = 8;
  auto engine = narrow.make();
  int64_t hits = 0;
  for (const uint64_t text : {1, 1, 2, 1, 1, 3, 2, 2}) {
    expect_same(run_one(*engine, request(random_ids(45, text), 9, text)),
                alone({}, request(random_ids(45, text), 9, text)));
    hits = engine->prefix_counters().hits;
  }
  EXPECT_GE(hits, 3);
  EXPECT_GT(engine->prefix_counters().evicted_blocks, 0);
}

// What a paused answer held is the cache's alone, and gives way: nobody is refused.
TEST_P(PrefixHits, APausedAnswersBlocksGiveWay) {
  SmallEngine narrow = small();
  narrow.num_blocks = 8;
  auto engine = narrow.make();
  const auto results =
      run_all(*engine, {request(random_ids(17, 1), 40, 1), request(random_ids(17, 2), 40, 2)});
  EXPECT_GT(engine->counts().preemptions, 0);
  for (uint64_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(results[i].has_value()) << results[i].error().message();
    expect_same(*results[i], alone({}, request(random_ids(17, i + 1), 40, i + 1)));
  }
}

TEST_P(PrefixHits, OneThatAsksForItsPromptsRowsRunsThem) {
  auto engine = small().make();
  Request one = request(random_ids(45, 1), 5, 1);
  one.wants_prompt_logprobs = true;
  const Completion first = run_one(*engine, one);
  const Completion second = run_one(*engine, one);
  EXPECT_EQ(second.prompt_tokens, 45);
  expect_same(second, first);
}

TEST_P(PrefixHits, AreNeverOfOtherWeights) {
  auto engine = small().make();
  const Request one = request(random_ids(45, 1), 12, 5);
  run_one(*engine, one);
  SmallEngine other;
  other.weights = 2;
  ASSERT_TRUE(engine->set_weights(other.model(), 3).ok());
  const Completion found = run_one(*engine, one);
  expect_same(found, alone(other, one));
  EXPECT_EQ(found.prompt_tokens, 45);
  EXPECT_EQ(run_one(*engine, one).prompt_tokens, 45 - found_of_45());
}

TEST_P(PrefixHits, FromDiskInANewEngine) {
  const cache::testing::TestFolder folder;
  SmallEngine small = this->small();
  small.prefix_cache->directory = folder.path();
  small.prefix_cache->max_disk_bytes = int64_t{1} << 26;
  const Request one = request(random_ids(45, 1), 12, 5);
  run_one(*small.make(), one);
  auto engine = small.make();
  const Completion found = run_one(*engine, one);
  expect_same(found, alone({}, one));
  EXPECT_EQ(found.prompt_tokens, 45 - found_of_45());
  EXPECT_EQ(engine->prefix_counters().disk_hits, 1);
  small.weights = 2;
  EXPECT_EQ(run_one(*small.make(), one).prompt_tokens, 45);
}

// The version counts, whatever the weights' own fingerprint says.
TEST_P(PrefixHits, OnDiskAreOfOneVersion) {
  const cache::testing::TestFolder folder;
  SmallEngine small = this->small();
  small.prefix_cache->directory = folder.path();
  small.prefix_cache->max_disk_bytes = int64_t{1} << 26;
  auto engine = small.make();
  const Request one = request(random_ids(45, 1), 12, 5);
  run_one(*engine, one);
  ASSERT_TRUE(engine->set_weights(small.model(), 3).ok());
  EXPECT_EQ(run_one(*engine, one).prompt_tokens, 45);
}

// Sequences that are saved, restored and forked find room that the cache holds.
TEST_P(PrefixHits, WhatIsKeptGivesWayToOpenSequences) {
  const cache::testing::TestFolder folder;
  std::filesystem::create_directories(folder.path());
  SmallEngine narrow = small();
  narrow.num_blocks = 8;
  auto engine = narrow.make();
  const SequenceId id = engine->open().value();
  const Request one = request(random_ids(29, 1), 3, 5);
  engine->generate(id, one).value();
  const std::string path = folder.path() + "/saved";
  ASSERT_TRUE(engine->save(id, path).ok());
  engine->close(id);
  run_one(*engine, request(random_ids(55, 2), 5, 5));
  const Result<SequenceId> restored = engine->restore(path);
  ASSERT_TRUE(restored.has_value()) << restored.error().message();
  run_one(*engine, request(random_ids(31, 3), 2, 5));
  const Result<SequenceId> fork = engine->fork(*restored);
  ASSERT_TRUE(fork.has_value()) << fork.error().message();
}

// A piece is planned before it is known where a hit ends: it is cut there anew, and the next
// period's state is taken.
TEST(PrefixStops, AreThoseBehindTheHit) {
  SmallEngine small{.chunk_tokens = 64};
  small.prefix_cache.emplace();
  small.prefix_cache->states = {StateStrategy::periodic, 16, true};
  auto engine = small.make();
  const std::vector<int32_t> first = random_ids(45, 1);
  const std::vector<int32_t> second = joined(first_of(first, 42), random_ids(28, 2));
  const std::vector<int32_t> third = joined(first_of(second, 50), random_ids(9, 3));
  EXPECT_EQ(run_one(*engine, request(first, 1, 1)).prompt_tokens, 45);
  EXPECT_EQ(run_one(*engine, request(second, 1, 1)).prompt_tokens, 70 - 40);
  EXPECT_EQ(run_one(*engine, request(third, 1, 1)).prompt_tokens, 59 - 48);
}

// A disk that does not answer: who needs what lies there waits, the others make a token a step.
TEST(PrefixDisk, ASlowOneDelaysThoseAloneWhoReadFromIt) {
  const cache::testing::TestFolder folder;
  SmallEngine small{.chunk_tokens = 64};
  small.prefix_cache.emplace();
  small.prefix_cache->directory = folder.path();
  small.prefix_cache->max_disk_bytes = int64_t{1} << 26;
  const Request kept = request(random_ids(45, 1), 12, 5);
  run_one(*small.make(), kept);
  const std::string segment = folder.segments().at(0);
  // It has a segment of its own to write to before the other one is in nobody's reach.
  auto engine = small.make();
  run_one(*engine, request(random_ids(9, 4), 3, 5));
  while (engine->prefix_counters().disk_written_bytes == 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  // A pipe in its place: who opens it waits until somebody opens its other end.
  const std::string file = segment + ".file", pipe = segment + ".pipe";
  std::filesystem::rename(segment, file);
  ASSERT_EQ(::mkfifo(segment.c_str(), 0600), 0);
  std::filesystem::create_hard_link(segment, pipe);

  int64_t tokens = 0;
  std::map<RequestId, Result<Completion>> results;
  const auto submit = [&](Request one) {
    one.on_event = [&](const Event& event) {
      tokens += event.kind == Event::Kind::token ? 1 : 0;
      if (event.kind == Event::Kind::finished) results.emplace(event.request, *event.result);
      return true;
    };
    return engine->submit(std::move(one)).value();
  };
  const Request beside = request(random_ids(7, 2), 60, 6);
  const RequestId beside_id = submit(beside);
  while (tokens == 0) engine->step();
  const RequestId waiting = submit(kept);
  for (int64_t step = 0; step < 40; ++step) {
    const int64_t before = tokens;
    ASSERT_TRUE(engine->step());
    // Looking up and reading are two jobs, between which the owner steps: time for both.
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(tokens, before + 1);
    EXPECT_EQ(engine->phase(waiting), Phase::waiting);
  }
  // Of one that comes later, and has nothing to look for, all runs.
  const Request later = request(random_ids(6, 3), 9, 7);
  const RequestId later_id = submit(later);
  while (!results.contains(later_id)) ASSERT_TRUE(engine->step());
  expect_same(results.at(later_id).value(), alone({}, later));
  // One that is given up does not wait, nor does a deadline.
  const RequestId given_up = submit(kept);
  engine->cancel(given_up);
  Request late = kept;
  late.deadline_seconds = 1e-9;
  const RequestId late_id = submit(late);
  while (!results.contains(given_up) || !results.contains(late_id)) ASSERT_TRUE(engine->step());
  EXPECT_EQ(results.at(given_up)->finish, Finish::cancelled);
  EXPECT_EQ(results.at(late_id)->finish, Finish::deadline);

  std::filesystem::rename(file, segment);
  // Fails where the disk's thread has not come to the pipe: then it reads the file.
  const int end = ::open(pipe.c_str(), O_WRONLY | O_NONBLOCK);
  while (engine->step()) {
  }
  if (end >= 0) ::close(end);
  expect_same(results.at(beside_id).value(), alone({}, beside));
  expect_same(results.at(waiting).value(), alone({}, kept));
  EXPECT_EQ(engine->prefix_counters().damaged_records, end >= 0 ? 1 : 0);  // what the pipe gave
}

INSTANTIATE_TEST_SUITE_P(Strategies, PrefixHits,
                         ::testing::Values(StatePolicy{StateStrategy::full, 1, false},
                                           StatePolicy{StateStrategy::periodic, 16, false},
                                           StatePolicy{StateStrategy::periodic, 1024, true},
                                           StatePolicy{StateStrategy::zero, 1, false}),
                         [](const auto& param_info) -> std::string {
                           const StatePolicy& policy = param_info.param;
                           if (policy.strategy == StateStrategy::full) return "full";
                           if (policy.strategy == StateStrategy::zero) return "zero";
                           return "periodic" + std::to_string(policy.period_tokens);
                         });

}  // namespace
}  // namespace cachalot::engine
