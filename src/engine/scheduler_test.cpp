#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>

#include "base/rng.h"

namespace cachalot::engine {
namespace {

// 1 ms and 0.1 ms a row; as sure as can be.
CostModel linear_cost(int64_t most_rows = 1024) {
  CostModel cost;
  for (int64_t rows = 1; rows <= most_rows; rows *= 2) {
    const double added = 1e-4 * static_cast<double>(rows);
    for (int i = 0; i < 3; ++i) {
      cost.decode.record(rows, 1e-3 + added);
      cost.prompt.record(rows, 1e-3 + added);
      cost.pieces.record(rows, added);
    }
  }
  cost.tail = 1;
  return cost;
}

Candidate decoding(int64_t id, int64_t num_tokens) {
  Candidate c;
  c.id = id;
  c.phase = Phase::decoding;
  c.num_tokens = num_tokens;
  c.num_cached = num_tokens - 1;
  c.has_state = true;
  c.num_blocks = c.num_own = (num_tokens + 14) / 16;
  return c;
}
Candidate prompt(int64_t id, Phase phase, int64_t num_tokens, int64_t num_cached = 0) {
  Candidate c;
  c.id = id;
  c.phase = phase;
  c.num_tokens = num_tokens;
  c.num_cached = num_cached;
  c.has_state = phase == Phase::prefilling;
  c.num_blocks = c.num_own = (num_cached + 15) / 16;
  return c;
}
Candidate with_priority(Candidate c, int32_t priority) {
  c.priority = priority;
  return c;
}

std::string planned(const std::vector<Candidate>& candidates, const Room& room,
                    const Promises& promises = {}, const CostModel& cost = {}, double now = 0) {
  StepPlan plan;
  plan_step(candidates, room, cost, promises, now, plan);
  return to_string(plan);
}
constexpr Room kAmple{100, 1000, 16};

TEST(Scheduler, APieceEndsAtItsStop) {
  Candidate running = prompt(0, Phase::prefilling, 101, 20), fresh = prompt(1, Phase::waiting, 90);
  running.next_stop = 48;
  fresh.next_stop = 32;
  EXPECT_EQ(planned({running, fresh}, kAmple, {.max_step_rows = 50}),
            "admitted 1; prompt 0:28 1:22");
  EXPECT_EQ(planned({running, fresh}, kAmple, {.max_step_rows = 100}),
            "admitted 1; prompt 0:28 1:32");
}

TEST(Scheduler, NothingGivesAnEmptyPlan) { EXPECT_EQ(planned({}, kAmple), ""); }

TEST(Scheduler, DecodingRowsComeFirstThenPiecesOfPrompts) {
  Candidate drafts = decoding(1, 40);
  drafts.num_drafts = 2;
  EXPECT_EQ(planned({prompt(0, Phase::prefilling, 101, 20), drafts, decoding(2, 7),
                     prompt(3, Phase::waiting, 30)},
                    kAmple, {.max_step_rows = 100}),
            "admitted 3; decoded 1+2 2; prompt 0:80 3:20");
}

TEST(Scheduler, AShortPromptDoesNotWaitForAllOfALongOne) {
  const Candidate first = prompt(0, Phase::prefilling, 100000, 20);
  const Candidate second = prompt(1, Phase::prefilling, 90000, 20);
  const Promises hundred{.max_step_rows = 100};
  EXPECT_EQ(planned({first, prompt(1, Phase::prefilling, 11)}, kAmple, hundred),
            "prompt 0:90 1:10");
  EXPECT_EQ(planned({first, second}, kAmple, hundred), "prompt 0:50 1:50");
  // The rest goes to the shortest, what it leaves to the next.
  EXPECT_EQ(planned({first, second, prompt(2, Phase::prefilling, 11)}, kAmple, hundred),
            "prompt 0:50 1:40 2:10");
  // The first one's end leaves its rows to the others.
  EXPECT_EQ(planned({prompt(0, Phase::prefilling, 31), second}, kAmple, hundred),
            "prompt 0:30 1:70");
  EXPECT_EQ(planned({with_priority(first, 1), second}, kAmple, hundred), "prompt 0:100");
  EXPECT_EQ(planned({first, second}, kAmple, {.max_step_rows = 1}), "prompt 0:1");
}

TEST(Scheduler, APromptEndsBeforeItsLastToken) {
  EXPECT_EQ(planned({prompt(0, Phase::waiting, 30)}, kAmple), "admitted 0; prompt 0:29");
  EXPECT_EQ(planned({prompt(0, Phase::waiting, 1)}, kAmple), "admitted 0; decoded 0");
  Candidate only_prompt = prompt(0, Phase::waiting, 1);
  only_prompt.is_sampled = false;
  EXPECT_EQ(planned({only_prompt}, kAmple), "admitted 0");
}

// Two decoding rows take 1.2 ms; 5.5 times that leaves 6.6 - 1.2 = 5.4 ms, 54 rows of prompts.
TEST(Scheduler, PiecesFitTheTimeBetweenTokens) {
  const std::vector<Candidate> all = {decoding(0, 9), decoding(1, 9),
                                      prompt(2, Phase::prefilling, 500)};
  EXPECT_EQ(planned(all, kAmple, {}, linear_cost()), "decoded 0 1; prompt 2:54");
  EXPECT_EQ(planned(all, kAmple, {.max_token_gap_s = 2.2e-3}, linear_cost()),
            "decoded 0 1; prompt 2:10");
  // The promise holds where it leaves no room for a prompt.
  EXPECT_EQ(planned(all, kAmple, {.max_token_gap_s = 1e-3}, linear_cost()), "decoded 0 1");
  // With nobody who waits for a token, a prompt runs in large pieces.
  EXPECT_EQ(planned({prompt(2, Phase::prefilling, 2000)}, kAmple, {.max_token_gap_s = 1e-3},
                    linear_cost()),
            "prompt 2:512");
}

// A few steps take longer than most: 6.6 / 1.5 - 1.2 = 3.2 ms.
TEST(Scheduler, PiecesLeaveRoomForSlowSteps) {
  CostModel cost = linear_cost();
  cost.tail = 1.5;
  const std::vector<Candidate> all = {decoding(0, 9), decoding(1, 9),
                                      prompt(2, Phase::prefilling, 500)};
  EXPECT_EQ(planned(all, kAmple, {}, cost), "decoded 0 1; prompt 2:32");
  EXPECT_EQ(planned(all, kAmple, {.max_token_gap_s = 3.3e-3}, cost), "decoded 0 1; prompt 2:10");
  EXPECT_EQ(planned({decoding(0, 9), prompt(5, Phase::waiting, 2)}, kAmple,
                    {.max_token_gap_s = 1.75e-3}, cost),
            "decoded 0");
}

// Pieces were measured while the machine was busy, and seem to fit nowhere: one step in a hundred
// tries a small one, and so they come to be known as they are.
TEST(Scheduler, PromptsNeverStandStill) {
  CostModel cost = linear_cost();
  for (int i = 0; i < 15; ++i) cost.pieces.record(1, 1);
  const std::vector<Candidate> all = {decoding(0, 9), decoding(1, 9),
                                      prompt(2, Phase::prefilling, 5000),
                                      prompt(3, Phase::prefilling, 7)};
  int64_t last = 0, tried = 0;
  for (int64_t step = 1; tried < 8; ++step) {
    ASSERT_LE(step - last, kStepsBetweenPieces + 1);
    const std::string plan = planned(all, kAmple, {}, cost);
    if (plan == "decoded 0 1") {
      cost.record(2, 0, 1.2e-3);
      continue;
    }
    // The short one is done with it.
    ASSERT_EQ(plan, "decoded 0 1; prompt 2:10 3:6");
    ASSERT_EQ(step - last, kStepsBetweenPieces + 1);
    cost.record(2, 1, 1.3e-3);
    last = step;
    ++tried;
  }
  EXPECT_EQ(cost.since_pieces, 0);
  EXPECT_NE(planned(all, kAmple, {}, cost), "decoded 0 1");
}

// What the decoding rows take alone is the measure of all: it is measured first, and again.
TEST(Scheduler, DecodingRowsRunAloneUntilTheyAreKnown) {
  const std::vector<Candidate> all = {decoding(0, 9), decoding(1, 9),
                                      prompt(2, Phase::prefilling, 500)};
  CostModel prompts_alone;
  prompts_alone.record(0, 512, 0.05);
  EXPECT_EQ(planned(all, kAmple, {}, prompts_alone), "decoded 0 1");
  CostModel old = linear_cost();
  old.since_decode = kStepsBetweenDecodes;
  EXPECT_EQ(planned(all, kAmple, {}, old), "decoded 0 1");
}

TEST(Scheduler, PiecesGrowByDoubling) {
  const std::vector<Candidate> all = {decoding(0, 9), decoding(1, 9),
                                      prompt(2, Phase::prefilling, 500)};
  EXPECT_EQ(planned(all, kAmple, {}, linear_cost(8)), "decoded 0 1; prompt 2:16");
}

TEST(Scheduler, APromisedGapHoldsAdmissionBackOrRefuses) {
  const Candidate next = prompt(5, Phase::waiting, 2);
  EXPECT_EQ(planned({decoding(0, 9), next}, kAmple, {.max_token_gap_s = 1.15e-3}, linear_cost()),
            "decoded 0");
  EXPECT_EQ(planned({next}, kAmple, {.max_token_gap_s = 1.05e-3}, linear_cost()),
            "refused 5 (token_gap)");
  // One that has started goes on.
  EXPECT_EQ(
      planned({prompt(5, Phase::paused, 2)}, kAmple, {.max_token_gap_s = 1.05e-3}, linear_cost()),
      "admitted 5; prompt 5:1");
}

// Prompts decode in a while: five rows take 1.5 ms, six 1.6.
TEST(Scheduler, APromisedGapCountsAdmittedPrompts) {
  const Promises promises{.max_step_rows = 100, .max_token_gap_s = 1.55e-3};
  std::vector<Candidate> all = {decoding(0, 9), prompt(1, Phase::prefilling, 300)};
  for (int64_t id = 2; id < 20; ++id) all.push_back(prompt(id, Phase::waiting, 10));
  EXPECT_EQ(planned(all, kAmple, promises, linear_cost()), "admitted 2 3 4; decoded 0; prompt 1:4");
  // What runs a prompt and no more takes no row.
  for (Candidate& c : all) c.is_sampled = c.phase != Phase::waiting;
  StepPlan plan;
  plan_step(all, kAmple, linear_cost(), promises, 0, plan);
  EXPECT_EQ(plan.admitted.size(), 18u);
}

// A burst before anything has been measured.
TEST(Scheduler, APromisedGapLetsTheFirstRunAlone) {
  std::vector<Candidate> all;
  for (int64_t id = 0; id < 20; ++id) all.push_back(prompt(id, Phase::waiting, 10));
  EXPECT_EQ(planned(all, kAmple, {.max_token_gap_s = 1}), "admitted 0; prompt 0:9");
  all[0] = decoding(0, 10);
  CostModel prompts_alone;
  prompts_alone.record(0, 9, 0.05);
  EXPECT_EQ(planned(all, kAmple, {.max_token_gap_s = 1}, prompts_alone), "decoded 0");
  CostModel one = prompts_alone;
  one.record(1, 0, 0.1);
  one.tail = 1;
  EXPECT_EQ(planned(all, kAmple, {.max_token_gap_s = 0.35}, one), "admitted 1 2; decoded 0");
}

TEST(Scheduler, PriorityThenDeadlineThenArrival) {
  Candidate urgent = prompt(3, Phase::waiting, 11);
  urgent.deadline_s = 9;
  const Room two{2, 100, 16};
  EXPECT_EQ(planned({prompt(1, Phase::waiting, 11), prompt(2, Phase::waiting, 11), urgent}, two),
            "admitted 3 1; prompt 3:10 1:10");
  EXPECT_EQ(planned({prompt(1, Phase::waiting, 11), with_priority(prompt(2, Phase::waiting, 11), 1),
                     urgent},
                    two),
            "admitted 2 3; prompt 2:10 3:10");
}

// The first that must wait holds those after it back, or a long prompt would wait for ever.
TEST(Scheduler, AWaitingOneIsNotOvertaken) {
  EXPECT_EQ(planned({decoding(0, 9), prompt(1, Phase::waiting, 100), prompt(2, Phase::waiting, 5)},
                    {5, 2, 16}),
            "decoded 0");
}

// Admission counts what admitted prompts have yet to take: 0 needs 6 more blocks of the 8.
TEST(Scheduler, AdmittedPromptsKeepTheirRoom) {
  const Candidate admitted = prompt(0, Phase::prefilling, 112, 16);
  EXPECT_EQ(planned({admitted, prompt(1, Phase::waiting, 33)}, {5, 8, 16}, {.max_step_rows = 16}),
            "prompt 0:16");
  EXPECT_EQ(planned({admitted, prompt(1, Phase::waiting, 32)}, {5, 8, 16}, {.max_step_rows = 32}),
            "admitted 1; prompt 0:32");
}

TEST(Scheduler, ADecodingRowTakesTheRoomOfTheLastInRank) {
  // 0 needs its second block; 2 came last.
  const std::vector<Candidate> all = {decoding(0, 17), decoding(1, 9), decoding(2, 9)};
  EXPECT_EQ(planned(all, {0, 0, 16}), "paused 2; decoded 0 1");
  // The last gives way itself.
  EXPECT_EQ(planned({decoding(0, 9), decoding(1, 17)}, {0, 0, 16}), "paused 1; decoded 0");
  EXPECT_EQ(planned({decoding(0, 17)}, {0, 0, 16}), "refused 0 (no_room)");
  // Drafts are dropped before anyone is.
  Candidate drafts = decoding(0, 16);
  drafts.num_drafts = 2;
  EXPECT_EQ(planned({drafts, decoding(1, 9)}, {0, 0, 16}), "decoded 0 1");
}

TEST(Scheduler, AHigherPriorityTakesRoomAnEqualOneWaits) {
  const std::vector<Candidate> running = {decoding(0, 9), decoding(1, 9)};
  const Candidate next = prompt(2, Phase::waiting, 9);
  for (const Room& full : {Room{0, 10, 16}, Room{1, 0, 16}}) {
    EXPECT_EQ(planned({running[0], running[1], next}, full), "decoded 0 1");
    EXPECT_EQ(planned({running[0], running[1], with_priority(next, 1)}, full),
              "paused 1; admitted 2; decoded 0; prompt 2:8");
  }
  // Nobody is paused for one that would not fit all the same.
  EXPECT_EQ(planned({running[0], running[1], with_priority(prompt(2, Phase::waiting, 90), 1)},
                    {1, 0, 16}),
            "decoded 0 1");
}

TEST(Scheduler, WhatNothingCouldMakeRoomForIsRefused) {
  EXPECT_EQ(planned({prompt(0, Phase::waiting, 33)}, {1, 2, 16}), "refused 0 (no_room)");
  EXPECT_EQ(planned({prompt(0, Phase::waiting, 33)}, {0, 9, 16}), "refused 0 (no_room)");
  EXPECT_EQ(planned({decoding(1, 5), prompt(2, Phase::waiting, 33)}, {1, 2, 16}), "decoded 1");
}

TEST(Scheduler, DeadlinesExpireOrAreRefused) {
  Candidate late = decoding(0, 9), hopeless = prompt(1, Phase::waiting, 1001);
  late.deadline_s = 1;
  hopeless.deadline_s = 2.05;  // its prompt takes 101 ms
  EXPECT_EQ(planned({late, hopeless}, kAmple, {}, linear_cost(), 2),
            "expired 0; refused 1 (deadline)");
  hopeless.deadline_s = 2.2;
  EXPECT_EQ(planned({hopeless}, kAmple, {}, linear_cost(), 2), "admitted 1; prompt 1:512");
  hopeless.deadline_s = 2.05;
  hopeless.phase = Phase::paused;  // it ends with what it has, when it is time
  EXPECT_EQ(planned({hopeless}, kAmple, {}, linear_cost(), 2), "admitted 1; prompt 1:512");
}

TEST(Scheduler, ASharedBlockIsCopiedBeforeItIsWritten) {
  Candidate fork = decoding(1, 9);
  fork.num_own = 0;
  fork.copies_one = true;
  EXPECT_EQ(planned({decoding(0, 9), fork}, {0, 0, 16}), "paused 1; decoded 0");
  EXPECT_EQ(planned({decoding(0, 9), fork}, {0, 1, 16}), "decoded 0 1");
}

// A world that follows the plans: everyone comes to an end, none takes what there is not.
TEST(Scheduler, EveryoneEndsInAnyWorld) {
  for (uint64_t world = 0; world < 300; ++world) {
    RngStream rng(world, RngPurpose::data, 0);
    const auto below = [&](uint32_t n) { return static_cast<int64_t>(rng.next_u32() % n); };
    const int64_t states = 1 + below(5), blocks = 4 + below(12), bt = 4;
    std::map<int64_t, Candidate> all;
    std::map<int64_t, int64_t> left;
    int64_t refused = 0, paused = 0;
    const int64_t count = 3 + below(12);
    for (int64_t id = 0; id < count; ++id) {
      all[id] =
          with_priority(prompt(id, Phase::waiting, 1 + below(20)), static_cast<int32_t>(below(3)));
      left[id] = 1 + below(20);
    }
    for (int64_t step = 0; !all.empty(); ++step) {
      ASSERT_LT(step, 5000) << "world " << world;
      std::vector<Candidate> now;
      Room room{states, blocks, bt};
      for (const auto& [id, c] : all) {
        now.push_back(c);
        room.free_states -= c.has_state ? 1 : 0;
        room.free_blocks -= c.num_own;
      }
      ASSERT_GE(room.free_blocks, 0);
      ASSERT_GE(room.free_states, 0);
      StepPlan plan;
      plan_step(now, room, {}, {.max_step_rows = 1 + below(9)}, 0, plan);
      for (const auto& one : plan.refused) {
        all.erase(one.id);
        ++refused;
      }
      for (const int64_t id : plan.paused) {
        Candidate& c = all.at(id);
        ++paused;
        c.phase = Phase::paused;
        c.has_state = false;
        c.num_cached = c.num_blocks = c.num_own = 0;
      }
      for (const int64_t id : plan.admitted) {
        Candidate& c = all.at(id);
        c.has_state = true;
        c.phase = c.num_cached < c.num_tokens - 1 ? Phase::prefilling : Phase::decoding;
      }
      ASSERT_TRUE(!plan.rows.empty() || !plan.refused.empty()) << "world " << world;
      for (const auto& rows : plan.rows) {
        Candidate& c = all.at(rows.id);
        c.num_cached += rows.count;
        c.num_blocks = c.num_own = std::max(c.num_blocks, (c.num_cached + bt - 1) / bt);
        if (!rows.is_decoded) {
          if (c.num_cached == c.num_tokens - 1) c.phase = Phase::decoding;
          continue;
        }
        ++c.num_tokens;
        if (--left[rows.id] == 0) all.erase(rows.id);
      }
    }
    EXPECT_LE(refused, count) << paused;
  }
}

TEST(StepTimes, PredictBetweenAndBeyondWhatWasMeasured) {
  StepTimes times, added = StepTimes::of_added_rows();
  EXPECT_FALSE(times.is_known());
  EXPECT_EQ(times.seconds(5), 0);
  for (StepTimes* one : {&times, &added}) {
    one->record(4, 2);
    one->record(16, 8);
  }
  EXPECT_DOUBLE_EQ(times.seconds(1), 2);
  EXPECT_DOUBLE_EQ(added.seconds(1), 0.5);
  EXPECT_DOUBLE_EQ(times.seconds(10), 5);
  EXPECT_DOUBLE_EQ(times.seconds(32), 16);
  EXPECT_EQ(times.rows_within(5, 100), 10);
  EXPECT_EQ(times.rows_within(1, 100), 0);
  EXPECT_EQ(added.rows_within(1, 100), 2);
  EXPECT_EQ(times.rows_within(1000, 100), 100);
  // Measurements that cannot be.
  times.record(64, 1);
  EXPECT_DOUBLE_EQ(times.seconds(64), 8);
  times.record(256, 1e6);
  EXPECT_DOUBLE_EQ(times.seconds(256), 32);
}

TEST(StepTimes, AreThoseOfMostSteps) {
  StepTimes times;
  for (int i = 0; i < 30; ++i) times.record(8, i % 3 == 0 ? 100 : 1);
  EXPECT_DOUBLE_EQ(times.seconds(8), 1);
  for (int i = 0; i < 8; ++i) times.record(8, 2);  // and follow them
  EXPECT_DOUBLE_EQ(times.seconds(8), 2);
}

// What was measured for fewer rows, long ago, holds nothing down.
TEST(StepTimes, OfAddedRowsRiseAndFallTogether) {
  StepTimes added = StepTimes::of_added_rows();
  for (int i = 0; i < 15; ++i) added.record(20, 2);
  for (const double level : {1.0, 2.0, 7.0, 0.5}) {
    for (int i = 0; i < 5; ++i) added.record(40, 4 * level);
    EXPECT_NEAR(added.seconds(40), 4 * level, 0.1 * level);
    EXPECT_NEAR(added.seconds(20), 2 * level, 0.1 * level);
  }
  added.record(40, 100);  // which something else held up
  EXPECT_NEAR(added.seconds(40), 2, 0.1);
}

TEST(CostModel, KnowsWhatFewStepsExceed) {
  CostModel cost;
  const auto run = [&](int steps, int slow) {
    for (int i = 0; i < steps; ++i) {
      cost.record(8, 0, 1);
      cost.record(8, 32, i % slow == 0 ? 4.5 : 3);
    }
  };
  run(2000, 1 << 20);  // all alike
  EXPECT_DOUBLE_EQ(cost.decode.seconds(8) + cost.pieces.seconds(32), 3);
  EXPECT_LT(cost.tail, 1.1);
  run(2000, 50);
  EXPECT_GE(cost.tail, 1.45);
  EXPECT_LT(cost.tail, 1.7);
  run(2000, 1 << 20);
  EXPECT_LT(cost.tail, 1.1);
}

}  // namespace
}  // namespace cachalot::engine
