// The log on disk: what a kill, a torn or a damaged tail leaves of it.
#include "post/rollout_log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <xxhash.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/rng.h"
#include "formats/test_checkpoint.h"

namespace cachalot::post {
namespace {

constexpr RolloutLogHead kHead = {.step = 3,
                                  .weights_version = 2,
                                  .plan_hash = 77,
                                  .num_groups = 2,
                                  .group_size = 2,
                                  .vocab_size = 300,
                                  .choices_per_row = 2,
                                  .num_experts = 8};

bool operator==(const Reward& a, const Reward& b) {
  return a.value == b.value && a.correct == b.correct && a.why == b.why;
}
bool same(const RolloutAnswer& a, const RolloutAnswer& b) {
  return a.ids == b.ids && a.is_sampled == b.is_sampled && a.logprobs == b.logprobs &&
         a.num_rows == b.num_rows && a.end == b.end &&
         a.reward.has_value() == b.reward.has_value() && (!a.reward || *a.reward == *b.reward);
}
bool same(const HeavyFields& a, const HeavyFields& b) {
  return a.allowed == b.allowed && a.experts == b.experts && a.prompt_experts == b.prompt_experts;
}
struct State {
  std::vector<RolloutAnswer> answers;
  std::vector<HeavyFields> heavy;
};
bool same(const State& a, const State& b) {
  const auto are_same = [](const auto& x, const auto& y) { return same(x, y); };
  return std::ranges::equal(a.answers, b.answers, are_same) &&
         std::ranges::equal(a.heavy, b.heavy, are_same);
}
State state_of(const RolloutLog& log) {
  State state{log.answers(), {}};
  for (size_t i = 0; i < log.answers().size(); ++i)
    state.heavy.push_back(log.heavy(static_cast<int64_t>(i)).value());
  return state;
}

class RolloutLogTest : public ::testing::Test {
 protected:
  RolloutLog open() {
    Result<RolloutLog> log = RolloutLog::open(path_, kHead);
    EXPECT_TRUE(log.has_value()) << log.error().message();
    return *std::move(log);
  }
  std::string bytes() const { return read_text_file(path_).value(); }
  void write(std::string_view text) { std::ofstream(path_, std::ios::binary) << text; }
  // Answers of every kind; the state and the file's size after every frame.
  void fill() {
    RolloutLog log = open();
    const auto note = [&](const Status& status) {
      ASSERT_TRUE(status.ok()) << status.message();
      states_.push_back(state_of(log));
      sizes_.push_back(std::filesystem::file_size(path_));
    };
    note({});
    note(log.add_prompt(0, {1, 2, 3, 4}));
    for (int i = 0; i < 3; ++i) {
      note(log.add_token(0, {.id = 10 + i, .logprob = -0.5 * i, .experts = {1, 7}}));
      note(log.add_token(
          1,
          {.id = 299, .logprob = -1.25, .allowed = {0, 5, 6, 133, 134, 299}, .experts = {0, 3}}));
    }
    note(log.add_given(1, std::vector<int32_t>{4, 5, 6}));
    note(log.finish(0, AnswerEnd::stop));
    note(log.add_token(
        1, {.id = 3, .logprob = 0, .allowed = {3}, .experts = {0, 3, 1, 2, 4, 5, 6, 7}}));
    note(log.finish(1, AnswerEnd::length));
    note(log.add_reward(0, {0.75, true, ""}));
    note(log.add_reward(1, {-1, false, "no answer"}));
  }

  formats::TemporaryDirectory directory_{"rollout-log"};
  std::string path_ = directory_.path() + "/log";
  std::vector<State> states_;
  std::vector<uintmax_t> sizes_;
};

TEST_F(RolloutLogTest, ACutAtAnyByteLeavesTheWholeFramesBeforeIt) {
  fill();
  const std::string whole = bytes();
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    write(whole.substr(0, cut));
    const RolloutLog log = open();
    size_t frames = 0;
    while (frames < sizes_.size() && sizes_[frames] <= cut) ++frames;
    ASSERT_TRUE(same(state_of(log), states_[frames == 0 ? 0 : frames - 1])) << "cut at " << cut;
    // A log without its head gets one.
    const uintmax_t kept = frames == 0 ? 0 : sizes_[frames - 1];
    EXPECT_EQ(log.dropped_bytes(), static_cast<int64_t>(cut - kept));
    EXPECT_EQ(std::filesystem::file_size(path_), std::max(kept, sizes_[0]));
  }
}

TEST_F(RolloutLogTest, GoesOnAfterATornTailAsIfUndisturbed) {
  fill();
  const std::string whole = bytes();
  // In the middle of the last reward.
  write(whole.substr(0, sizes_[sizes_.size() - 2] + 5));
  {
    RolloutLog log = open();
    EXPECT_FALSE(log.answers()[1].reward.has_value());
    ASSERT_TRUE(log.add_reward(1, {-1, false, "no answer"}).ok());
  }
  EXPECT_EQ(bytes(), whole);
}

TEST_F(RolloutLogTest, AChangedByteCostsItsFrameAndAllAfterIt) {
  fill();
  const std::string whole = bytes();
  for (size_t at = sizes_[0]; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    write(damaged);
    const RolloutLog log = open();
    size_t frames = 0;
    while (sizes_[frames] <= at) ++frames;
    ASSERT_TRUE(same(state_of(log), states_[frames - 1])) << "byte " << at;
  }
}

// A frame that was written elsewhere in the file is none here.
TEST_F(RolloutLogTest, AFrameCountsInItsPlaceOnly) {
  fill();
  const std::string whole = bytes();
  const std::string prompt = whole.substr(sizes_[0], sizes_[1] - sizes_[0]);
  write(whole.substr(0, sizes_[1]) + prompt);
  EXPECT_EQ(open().dropped_bytes(), static_cast<int64_t>(prompt.size()));
}

TEST_F(RolloutLogTest, OfAnotherPlanIsRefused) {
  fill();
  RolloutLogHead other = kHead;
  other.plan_hash = 78;
  const Result<RolloutLog> log = RolloutLog::open(path_, other);
  ASSERT_FALSE(log.has_value());
  EXPECT_EQ(log.error().code(), StatusCode::invalid_argument);
  EXPECT_NE(log.error().message().find("expected rollouts of step 3"), std::string::npos);
}

// Whatever a frame with a right checksum says: an error or a state, never a crash.
TEST_F(RolloutLogTest, AnyWholeFrameIsTakenOrRefused) {
  fill();
  const std::string whole = bytes();
  RngStream rng(1, RngPurpose::data, 0);
  int refused = 0, taken = 0;
  for (int trial = 0; trial < 600; ++trial) {
    const size_t frame = 1 + rng.next_u32() % (sizes_.size() - 1);
    std::string changed = whole.substr(0, sizes_[frame]);
    const size_t begin = sizes_[frame - 1] + 8;
    const uint32_t flips = 1 + rng.next_u32() % 3;
    for (uint32_t i = 0; i < flips; ++i)
      changed[begin + rng.next_u32() % (changed.size() - begin)] =
          static_cast<char>(rng.next_u32());
    if (rng.next_u32() % 4 == 0)
      changed.resize(begin + 1 + rng.next_u32() % (changed.size() - begin));
    const uint32_t head[2] = {
        static_cast<uint32_t>(changed.size() - begin),
        static_cast<uint32_t>(XXH3_64bits_withSeed(changed.data() + begin, changed.size() - begin,
                                                   sizes_[frame - 1]))};
    std::memcpy(changed.data() + begin - 8, head, 8);
    write(changed);
    const Result<RolloutLog> log = RolloutLog::open(path_, kHead);
    log ? ++taken : ++refused;
    if (!log) {
      EXPECT_NE(log.error().message().find(path_), std::string::npos);
    }
  }
  EXPECT_GT(refused, 20);
  EXPECT_GT(taken, 20);
}

// What a worker samples goes to the log that its trainer keeps; another goes on from there.
TEST_F(RolloutLogTest, AMirrorSendsItsFramesAndIsFilledFromFrames) {
  fill();
  const RolloutLog whole = open();
  std::vector<std::vector<std::byte>> sent;
  RolloutLog mirror = RolloutLog::mirror(kHead, [&](std::span<const std::byte> payload) {
    sent.emplace_back(payload.begin(), payload.end());
    return Status();
  });
  const auto frames = whole.frames_of(0).value();
  for (const auto& frame : frames) {
    ASSERT_TRUE(mirror.add(frame).ok());
    EXPECT_EQ(mirror.place_of(frame).value().group, 0);
  }
  EXPECT_TRUE(sent.empty());
  EXPECT_TRUE(whole.frames_of(1).value().empty());
  EXPECT_TRUE(mirror.has_prompt(0));
  std::vector<RolloutAnswer> expected = whole.answers();
  for (RolloutAnswer& answer : expected) answer.reward.reset();
  EXPECT_TRUE(std::ranges::equal(mirror.answers(), expected,
                                 [](const auto& x, const auto& y) { return same(x, y); }));
  ASSERT_TRUE(mirror.add_token(2, {.id = 7, .logprob = -1, .experts = {1, 1}}).ok());
  ASSERT_EQ(sent.size(), 1u);
  RolloutLog log = open();
  EXPECT_EQ(log.place_of(sent[0]).value().group, 1);
  ASSERT_TRUE(log.add(sent[0]).ok());
  EXPECT_EQ(log.answers()[2].ids, std::vector<int32_t>{7});
  EXPECT_EQ(open().answers()[2].ids, std::vector<int32_t>{7});
  // The same again cannot follow, and leaves the file as it is.
  const std::string before = bytes();
  const Status again = log.add(sent[0]);
  EXPECT_EQ(again.code(), StatusCode::data_loss);
  EXPECT_NE(again.message().find("token 0 of answer 2 after 1"), std::string::npos);
  EXPECT_EQ(bytes(), before);
  EXPECT_FALSE(log.add({}).ok());
  EXPECT_FALSE(log.place_of({}).has_value());
}

// What is read again is checked again.
TEST_F(RolloutLogTest, DamageUnderAnOpenLogIsNamed) {
  fill();
  const RolloutLog log = open();
  EXPECT_EQ(log.heavy(1).value().allowed[0], (std::vector<int32_t>{0, 5, 6, 133, 134, 299}));
  std::string damaged = bytes();
  damaged[sizes_[3] - 2] = static_cast<char>(damaged[sizes_[3] - 2] ^ 1);
  std::fstream(path_, std::ios::in | std::ios::out | std::ios::binary) << damaged;
  const Result<HeavyFields> heavy = log.heavy(1);
  ASSERT_FALSE(heavy.has_value());
  EXPECT_EQ(heavy.error().code(), StatusCode::data_loss);
  EXPECT_NE(heavy.error().message().find(path_), std::string::npos);
  EXPECT_FALSE(log.frames_of(0).has_value());
}

TEST_F(RolloutLogTest, AFullDiskIsAnErrorAndTheLogStaysWhole) {
  RolloutLog log = open();
  ASSERT_TRUE(log.add_token(0, {.id = 1, .experts = {1, 1}}).ok());
  const std::string before = bytes();
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{before.size() + 20, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  const Status status = log.add_token(0, {.id = 2, .experts = {1, 1}});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), StatusCode::resource_exhausted) << status.message();
  EXPECT_EQ(bytes(), before);
  EXPECT_EQ(log.answers()[0].ids.size(), 1u);
  ASSERT_TRUE(log.add_token(0, {.id = 3, .experts = {1, 1}}).ok());
  EXPECT_EQ(open().answers()[0].ids, (std::vector<int32_t>{1, 3}));
}

}  // namespace
}  // namespace cachalot::post
