// Requests side by side: each gets what it gets alone.
// Source  reference/infrastructure 5.5, B1.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "engine/schedules.h"
#include "engine/small_model.h"

namespace cachalot::engine {
namespace {

using testing::alone;
using testing::expect_same;
using testing::random_ids;
using testing::request;
using testing::run_all;
using testing::SmallEngine;

// The n-th of requests that differ in all that a request can differ in.
Request numbered(int64_t n) {
  Request one = request(random_ids(1 + n * 7 % 41, static_cast<uint64_t>(n)), 3 + n * 5 % 19,
                        static_cast<uint64_t>(n) * 1000);
  one.sampling.temperature = n % 4 == 0 ? 0.0 : 0.5 + 0.1 * static_cast<double>(n / 6 % 7);
  if (n % 3 == 1) one.sampling.frequency_penalty = 0.5;
  if (n % 5 == 2) one.sampling.top_k = 4;
  one.num_drafts = n % 4;
  one.adapts_drafts = n % 2 == 0;
  one.wants_model_logprobs = n % 6 == 0;
  // Neighbours of the same and of different temperatures, and some between that do not ask.
  one.wants_label_logprobs = n % 4 != 0 && n % 3 != 1 && !one.wants_model_logprobs;
  return one;
}

TEST(Requests, GetTogetherWhatTheyGetAlone) {
  for (const int threads : {1, 2, 3}) {
    const SmallEngine small{.threads = threads, .max_sequences = 16, .num_blocks = 256};
    auto engine = small.make();
    std::vector<Request> requests;
    for (int64_t n = 0; n < 24; ++n) requests.push_back(numbered(n));
    const auto results = run_all(*engine, requests);
    ASSERT_EQ(results.size(), requests.size());
    for (size_t i = 0; i < results.size(); ++i) {
      SCOPED_TRACE(i);
      ASSERT_TRUE(results[i].has_value()) << results[i].error().message();
      expect_same(*results[i], alone({}, requests[i]));
    }
    // Many at once, or it would be some 300 steps.
    EXPECT_LT(engine->counts().steps, 120);
  }
}

TEST(Requests, StreamTheirEventsInOrder) {
  auto engine = SmallEngine{}.make();
  std::vector<std::string> events;
  std::vector<int32_t> ids;
  Request one = request(random_ids(40, 1), 3, 5);
  one.on_event = [&](const Event& event) {
    switch (event.kind) {
      case Event::Kind::prefill:
        events.push_back("prefill " + std::to_string(event.done_tokens) + " of " +
                         std::to_string(event.total_tokens));
        break;
      case Event::Kind::token:
        events.push_back("token");
        ids.push_back(event.token);
        break;
      case Event::Kind::finished:
        events.push_back("finished");
        EXPECT_EQ(event.result->value().ids, ids);
    }
    return true;
  };
  EXPECT_TRUE(engine->submit(one).has_value());
  EXPECT_TRUE(events.empty());  // at once
  while (engine->step()) {
  }
  EXPECT_EQ(events,
            (std::vector<std::string>{"prefill 16 of 40", "prefill 32 of 40", "prefill 39 of 40",
                                      "token", "token", "token", "finished"}));
}

TEST(Requests, ABadOneIsRefusedWithoutATrace) {
  auto engine = SmallEngine{}.make();
  const SequenceId id = engine->open().value();
  ASSERT_TRUE(engine->generate(id, request({1, 2}, 2, 0)).has_value());
  const std::vector<int32_t> before(engine->tokens(id).begin(), engine->tokens(id).end());
  std::map<std::string, Request> bad;
  for (const char* what : {"prompt token 0", "max_new_tokens", "num_drafts", "num_answers",
                           "deadline_seconds", "top_p"})
    bad[what] = request({3}, 2, 0);
  bad["prompt token 0"].prompt = {12};
  bad["max_new_tokens"].max_new_tokens = -1;
  bad["num_drafts"].num_drafts = 5;
  bad["num_answers"].num_answers = 0;
  bad["deadline_seconds"].deadline_seconds = -1;
  bad["top_p"].sampling.top_p = 0;
  for (auto& [what, one] : bad) {
    one.sequence = id;
    const auto submitted = engine->submit(one);
    ASSERT_FALSE(submitted.has_value()) << what;
    EXPECT_EQ(submitted.error().code(), StatusCode::invalid_argument);
    EXPECT_NE(submitted.error().message().find(what), std::string::npos)
        << submitted.error().message();
  }
  EXPECT_EQ(engine->submit(request({}, 2, 0)).error().code(), StatusCode::invalid_argument);
  EXPECT_EQ(std::vector<int32_t>(engine->tokens(id).begin(), engine->tokens(id).end()), before);
  Request busy = request({3}, 2, 0);
  busy.sequence = id;
  ASSERT_TRUE(engine->submit(busy).has_value());
  EXPECT_EQ(engine->submit(busy).error().code(), StatusCode::invalid_argument);
  while (engine->step()) {
  }
}

TEST(Requests, BeyondTheLimitAreRefusedUntilOneEnds) {
  const SmallEngine small;
  auto loaded = small.model();
  EngineOptions options = small.options(*loaded);
  options.max_requests = 2;
  auto engine = Engine::create(std::move(loaded), options).value();
  EXPECT_TRUE(engine->submit(request({1}, 2, 0)).has_value());
  EXPECT_TRUE(engine->submit(request({1}, 2, 0)).has_value());
  EXPECT_EQ(engine->submit(request({1}, 2, 0)).error().code(), StatusCode::resource_exhausted);
  while (engine->step()) {
  }
  EXPECT_TRUE(engine->submit(request({1}, 2, 0)).has_value());
}

// The logits of a prompt's rows, in order, each once.
std::vector<std::vector<float>> prompt_logits(Engine& engine, const std::vector<int32_t>& ids,
                                              const std::vector<int64_t>& pieces) {
  std::vector<std::vector<float>> rows;
  const SequenceId id = engine.open().value();
  auto next = ids.begin();
  for (const int64_t piece : pieces) {
    Request one = request({next, next + piece}, 0, 0);
    next += piece;
    one.on_prompt_logits = [&](int64_t position, std::span<const float> logits) {
      EXPECT_EQ(position, static_cast<int64_t>(rows.size()));
      rows.emplace_back(logits.begin(), logits.end());
      return true;
    };
    EXPECT_TRUE(engine.generate(id, std::move(one)).has_value());
  }
  engine.close(id);
  return rows;
}

TEST(Requests, GetTheLogitsOfTheirPrompts) {
  const std::vector<int32_t> ids = random_ids(40, 3);
  auto whole = SmallEngine{.chunk_tokens = 64}.make();
  const auto expected = prompt_logits(*whole, ids, {40});
  ASSERT_EQ(expected.size(), 40u);
  ASSERT_EQ(expected[0].size(), 12u);
  // They are those that the tokens are drawn from.
  Request greedy = request(ids, 1, 0);
  greedy.sampling.temperature = 0;
  const int32_t drawn = alone({}, greedy).ids[0];
  EXPECT_EQ(drawn,
            std::max_element(expected[39].begin(), expected[39].end()) - expected[39].begin());
  auto cut = SmallEngine{}.make();
  EXPECT_EQ(prompt_logits(*cut, ids, {40}), expected);
  EXPECT_EQ(prompt_logits(*cut, ids, {17, 1, 1, 21}), expected);
  // Beside one that takes the room again and again.
  auto narrow = SmallEngine{.num_blocks = 6}.make();
  Request urgent = request(random_ids(20, 2), 20, 1);
  urgent.priority = 1;
  std::vector<std::vector<float>> rows;
  Request one = request(ids, 0, 0);
  one.on_prompt_logits = [&](int64_t, std::span<const float> logits) {
    rows.emplace_back(logits.begin(), logits.end());
    if (rows.size() == 16) {
      EXPECT_TRUE(narrow->submit(urgent).has_value());
    }
    return true;
  };
  EXPECT_TRUE(run_all(*narrow, {one})[0].has_value());
  EXPECT_GT(narrow->counts().preemptions, 0);
  EXPECT_EQ(rows, expected);
  // Who has seen enough ends it.
  rows.clear();
  one.on_prompt_logits = [&](int64_t, std::span<const float> logits) {
    rows.emplace_back(logits.begin(), logits.end());
    return rows.size() < 5;
  };
  EXPECT_EQ(run_all(*whole, {one})[0].value().finish, Finish::cancelled);
  EXPECT_EQ(rows.size(), 5u);
  one.max_new_tokens = 1;
  EXPECT_EQ(whole->submit(one).error().code(), StatusCode::invalid_argument);
}

TEST(Requests, GoOnFromASequenceThatHasRunToItsEnd) {
  const std::vector<int32_t> ids = random_ids(21, 3);
  auto engine = SmallEngine{}.make();
  const SequenceId id = engine->open().value();
  Request prompt = request(ids, 0, 0);
  prompt.on_prompt_logits = [](int64_t, std::span<const float>) { return true; };
  prompt.sequence = id;
  EXPECT_TRUE(engine->generate(id, prompt).has_value());
  EXPECT_EQ(engine->num_cached(id), 21);
  expect_same(engine->generate(id, request({}, 7, 5)).value(), alone({}, request(ids, 7, 5)));
}

// One that the cache cannot hold fails; its neighbour does not notice.
TEST(Requests, OneThatFindsNoRoomFailsAlone) {
  const SmallEngine small{.num_blocks = 4};
  auto engine = small.make();
  const auto results =
      run_all(*engine, {request(random_ids(33, 1), 2, 0), request(random_ids(20, 2), 8, 1)});
  ASSERT_EQ(results.size(), 2u);
  ASSERT_FALSE(results[0].has_value());
  EXPECT_EQ(results[0].error().code(), StatusCode::resource_exhausted);
  ASSERT_TRUE(results[1].has_value());
  expect_same(*results[1], alone({}, request(random_ids(20, 2), 8, 1)));
}

// Threads that submit and cancel while another one runs the steps.
// A moment in which the machine was busy refuses one, not all after it.
TEST(Requests, APromiseIsJudgedAnewAfterARefusal) {
  const SmallEngine small;
  auto model = small.model();
  EngineOptions options = small.options(*model);
  double now = 0, tick = 1;
  options.clock = [&] { return now += tick; };
  options.max_token_gap_seconds = 1;
  auto engine = Engine::create(std::move(model), options).value();
  const auto ask = [&] { return run_all(*engine, {request(random_ids(5, 1), 3, 1)})[0]; };
  EXPECT_TRUE(ask().has_value());  // nothing is known
  tick = 1e-6;
  const auto refused = ask();
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message().find("max_token_gap"), std::string::npos);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(ask().has_value());
}

TEST(Requests, ComeFromAnyThread) {
  auto engine = SmallEngine{}.make();
  std::jthread owner([&](const std::stop_token& stop) { engine->run(stop); });
  constexpr int kThreads = 3, kEach = 10;
  std::atomic<int> finished{0}, cancelled{0};
  {
    std::vector<std::jthread> clients;
    for (int t = 0; t < kThreads; ++t) {
      clients.emplace_back([&, t] {
        for (int i = 0; i < kEach; ++i) {
          Request one = request(random_ids(1 + i, static_cast<uint64_t>(t)), 20, 3);
          one.on_event = [&](const Event& event) {
            if (event.kind != Event::Kind::finished) return true;
            if (event.result->value().finish == Finish::cancelled) ++cancelled;
            ++finished;
            finished.notify_all();
            return true;
          };
          const auto id = engine->submit(std::move(one));
          ASSERT_TRUE(id.has_value());
          if (i % 3 == 0) engine->cancel(*id);
        }
      });
    }
  }
  for (int seen = finished; seen < kThreads * kEach; seen = finished) finished.wait(seen);
  owner.request_stop();
  owner.join();
  EXPECT_EQ(finished, kThreads * kEach);
}

// The thousands are schedules_test's.
TEST(Schedules, GiveEveryAnswerTheBitsItHasAlone) {
  testing::Schedules schedules;
  const testing::ScheduleCounts counts = schedules.run(0, 100);
  counts.print();
  counts.expect_at_least(1);
}

}  // namespace
}  // namespace cachalot::engine
