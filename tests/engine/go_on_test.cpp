// Steps that begin before the tokens of the one before are read: the same answers, and sequences as
// they are without.
// Source  reference/infrastructure 5.5, B1.
#include <gtest/gtest.h>

#include "engine/small_model.h"

namespace cachalot::engine {
namespace {

using testing::alone;
using testing::expect_same;
using testing::random_ids;
using testing::request;
using testing::run_all;
using testing::SmallEngine;

std::unique_ptr<Engine> engine_that(bool goes_on) { return SmallEngine{.goes_on = goes_on}.make(); }

TEST(GoOn, AStepOfOneTokenEachIsGoneOnFrom) {
  auto engine = engine_that(true);
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 3; ++i) requests.push_back(request(random_ids(9, i), 20, i));
  const auto results = run_all(*engine, requests);
  for (size_t i = 0; i < requests.size(); ++i) expect_same(*results[i], alone({}, requests[i]));
  // All but the prompts' steps, the first of the answers' and those without a next.
  EXPECT_GE(engine->counts().gone_on, 15);

  auto other = engine_that(false);
  run_all(*other, requests);
  EXPECT_EQ(other->counts().gone_on, 0);
  EXPECT_EQ(engine->counts().rows, other->counts().rows);
}

// However an answer ends while the step after it runs.
TEST(GoOn, ASequenceIsLeftAsItIsWithout) {
  enum class End { length, stop, event, cancel };
  for (const End end : {End::length, End::stop, End::event, End::cancel}) {
    SCOPED_TRACE(static_cast<int>(end));
    std::vector<Completion> found[2];
    std::vector<int64_t> cached[2];
    for (const bool goes_on : {false, true}) {
      auto engine = engine_that(goes_on);
      const SequenceId id = engine->open().value();
      ASSERT_TRUE(engine->submit(request(random_ids(5, 8), 40, 3)).has_value());  // beside
      for (int round = 0; round < 3; ++round) {
        Request one = request(random_ids(4, static_cast<uint64_t>(round)), 12, 7);
        one.sequence = id;
        if (end == End::stop) one.stop_tokens = {3, 5};
        std::optional<RequestId> request_id;
        bool is_finished = false;
        int num_tokens = 0;
        one.on_event = [&](const Event& event) {
          if (event.kind == Event::Kind::finished) {
            is_finished = true;
            found[goes_on].push_back(**event.result);
          } else if (event.kind == Event::Kind::token && ++num_tokens == 6) {
            if (end == End::cancel) engine->cancel(*request_id);
            return end != End::event;
          }
          return true;
        };
        request_id = engine->submit(std::move(one)).value();
        while (!is_finished) engine->step();
        cached[goes_on].push_back(engine->num_cached(id));
        EXPECT_EQ(engine->num_cached(id) + 1, static_cast<int64_t>(engine->tokens(id).size()));
      }
      EXPECT_EQ(engine->counts().gone_on > 0, goes_on);
    }
    EXPECT_EQ(cached[true], cached[false]);
    for (size_t i = 0; i < found[true].size(); ++i) {
      expect_same(found[true][i], found[false][i]);
      EXPECT_EQ(found[true][i].prompt_tokens, found[false][i].prompt_tokens);
    }
  }
}

TEST(GoOn, OtherWeightsComeWhileAStepIsUnderWay) {
  std::vector<int32_t> ids[2];
  for (const bool goes_on : {false, true}) {
    auto engine = engine_that(goes_on);
    Request one = request(random_ids(6, 4), 16, 11);
    one.on_event = [&](const Event& event) {
      if (event.kind == Event::Kind::token) ids[goes_on].push_back(event.token);
      return true;
    };
    ASSERT_TRUE(engine->submit(std::move(one)).has_value());
    while (ids[goes_on].size() < 7) engine->step();
    ASSERT_TRUE(engine->set_weights(SmallEngine{.weights = 2}.model(), 2).ok());
    while (engine->step()) {
    }
  }
  EXPECT_EQ(ids[true], ids[false]);
}

}  // namespace
}  // namespace cachalot::engine
