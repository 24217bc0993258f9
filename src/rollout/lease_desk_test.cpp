// Whose a group is, as time goes by: without sockets, without a model.
#include "rollout/lease_desk.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>

#include "formats/test_checkpoint.h"

namespace cachalot::rollout {
namespace {

using Clock = LeaseDesk::Clock;
using std::chrono::seconds;

class LeaseDeskTest : public ::testing::Test {
 protected:
  LeaseDeskTest() {
    plan_.step = 4;
    plan_.group_size = 2;
    plan_.groups = {{{1, 2}, 3}, {{1}, 3}};
    head_ = {.step = 4,
             .plan_hash = post::plan_hash(plan_),
             .num_groups = 2,
             .group_size = 2,
             .vocab_size = 10};
    log_.emplace(post::RolloutLog::open(directory_.path() + "/log", head_).value());
    weights_.manifest_sha256 = "abc";
  }
  void begin(post::OnTurn on_turn = {}) { desk_.begin(plan_, *log_, std::move(on_turn), weights_); }
  Offer claim(const std::string& worker) {
    const auto offer = desk_.claim(worker, now_);
    EXPECT_TRUE(offer.has_value() && offer->has_value());
    return offer && *offer ? **offer : Offer();
  }
  bool is_free() {
    const auto offer = desk_.claim("other", now_);
    return offer && *offer;
  }
  // The frames of a mirror that has the log's state.
  std::vector<std::byte> frame(const std::function<Status(post::RolloutLog&)>& add) {
    std::vector<std::byte> sent;
    post::RolloutLog mirror = post::RolloutLog::mirror(head_, [&](std::span<const std::byte> f) {
      sent.assign(f.begin(), f.end());
      return Status();
    });
    for (int64_t group : {0, 1}) {
      const auto frames = log_->frames_of(group).value();
      for (const std::vector<std::byte>& logged : frames) EXPECT_TRUE(mirror.add(logged).ok());
    }
    EXPECT_TRUE(add(mirror).ok());
    return sent;
  }
  std::vector<std::byte> token(int64_t answer, int32_t id) {
    return frame(
        [&](post::RolloutLog& log) { return log.add_token(answer, {.id = id, .logprob = -1}); });
  }
  std::vector<std::byte> end(int64_t answer) {
    return frame([&](post::RolloutLog& log) { return log.finish(answer, post::AnswerEnd::stop); });
  }
  Status take(int64_t lease, int64_t place, const std::vector<std::byte>& payload) {
    return desk_.take({{{lease, place, payload}}}, now_);
  }

  formats::TemporaryDirectory directory_{"lease-desk"};
  post::RolloutPlan plan_;
  post::RolloutLogHead head_;
  std::optional<post::RolloutLog> log_;
  Offer weights_;
  LeaseDesk desk_{10};
  Clock::time_point now_ = Clock::now();
};

TEST_F(LeaseDeskTest, EachGroupIsOneWorkersUntilItsAnswersHaveEnded) {
  EXPECT_FALSE(is_free());  // no step yet
  begin();
  const Offer first = claim("a"), second = claim("b");
  EXPECT_EQ(first.group, 0);
  EXPECT_EQ(second.group, 1);
  EXPECT_EQ(first.step, 4);
  EXPECT_EQ(first.plan_hash, post::plan_hash(plan_));
  EXPECT_EQ(first.manifest_sha256, "abc");
  EXPECT_FALSE(first.asks_turns);
  EXPECT_NE(first.lease, second.lease);
  EXPECT_FALSE(is_free());
  int64_t place = 0;
  for (const int64_t answer : {0, 1}) {
    ASSERT_TRUE(take(first.lease, place++, token(answer, 3)).ok());
    ASSERT_TRUE(take(first.lease, place++, end(answer)).ok());
  }
  // Its lease ends with it; the other's does not.
  EXPECT_EQ(desk_.logged(first.lease, now_).error().code(), StatusCode::not_found);
  EXPECT_FALSE(desk_.wait(std::chrono::milliseconds(0)));
  place = 0;
  for (const int64_t answer : {2, 3}) {
    ASSERT_TRUE(take(second.lease, place++, token(answer, 3)).ok());
    ASSERT_TRUE(take(second.lease, place++, end(answer)).ok());
  }
  EXPECT_TRUE(desk_.wait(std::chrono::milliseconds(0)));
  EXPECT_EQ(desk_.counts().sampled_tokens, 4);
  EXPECT_TRUE(desk_.end().ok());
}

TEST_F(LeaseDeskTest, ASilentWorkersGroupGoesToWhoeverAsksWithWhatTheLogHas) {
  begin();
  const Offer silent = claim("a"), lively = claim("b");
  ASSERT_TRUE(take(silent.lease, 0, token(0, 3)).ok());
  now_ += seconds(9);
  ASSERT_TRUE(take(lively.lease, 0, token(2, 4)).ok());
  now_ += seconds(2);
  const Offer next = claim("c");
  EXPECT_EQ(next.group, 0);
  EXPECT_EQ(desk_.counts().taken_over, 1);
  const std::string batch = desk_.logged(next.lease, now_).value();
  EXPECT_EQ(frames_of_batch(batch).value().size(), 1u);
  // What comes late is refused, and nothing of it is in the log.
  const std::vector<std::byte> late = token(0, 5);
  const Status refused = take(silent.lease, 1, late);
  EXPECT_EQ(refused.code(), StatusCode::not_found);
  EXPECT_NE(refused.message().find("another worker's"), std::string::npos);
  ASSERT_TRUE(take(next.lease, 0, late).ok());
  EXPECT_EQ(log_->answers()[0].ids, (std::vector<int32_t>{3, 5}));
  // The second time it has twice as long.
  now_ += seconds(15);
  ASSERT_TRUE(take(lively.lease, 1, token(2, 4)).ok());
  EXPECT_FALSE(is_free());
  now_ += seconds(6);
  ASSERT_TRUE(take(lively.lease, 2, token(2, 4)).ok());
  EXPECT_TRUE(is_free());
}

TEST_F(LeaseDeskTest, AFrameIsTakenOnceHoweverOftenItIsSent) {
  begin();
  const Offer offer = claim("a");
  const std::vector<std::byte> first = token(0, 3);
  ASSERT_TRUE(take(offer.lease, 0, first).ok());
  ASSERT_TRUE(take(offer.lease, 0, first).ok());
  EXPECT_EQ(log_->answers()[0].ids, std::vector<int32_t>{3});
  const Status gap = take(offer.lease, 2, token(0, 4));
  EXPECT_EQ(gap.code(), StatusCode::data_loss);
  EXPECT_NE(gap.message().find("expected its frame 1, found frame 2"), std::string::npos);
}

TEST_F(LeaseDeskTest, WhatIsNotTheWorkersIsRefused) {
  const auto on_turn = [](int64_t, const post::RolloutAnswer&) -> Result<std::vector<int32_t>> {
    return std::vector<int32_t>{7, 8};
  };
  begin(on_turn);
  const Offer offer = claim("a");
  EXPECT_TRUE(offer.asks_turns);
  const Status other = take(offer.lease, 0, token(2, 3));
  EXPECT_NE(other.message().find("expected a frame of group 0, found one of 1"), std::string::npos);
  EXPECT_EQ(take(12345, 0, token(0, 3)).code(), StatusCode::not_found);
  EXPECT_EQ(take(offer.lease, 0, std::vector<std::byte>(9)).code(), StatusCode::data_loss);
  EXPECT_NE(desk_.turn(offer.lease, 2, now_).error().message().find("an answer of group 0"),
            std::string::npos);
  EXPECT_NE(desk_.turn(offer.lease, 1, now_).error().message().find("not begun"),
            std::string::npos);
  ASSERT_TRUE(take(offer.lease, 0, token(1, 3)).ok());
  EXPECT_EQ(desk_.turn(offer.lease, 1, now_).value(), (std::vector<int32_t>{7, 8}));
  EXPECT_EQ(desk_.plan_words(3).error().code(), StatusCode::not_found);
  EXPECT_EQ(desk_.plan_words(4).value(), post::plan_words(plan_));
}

TEST_F(LeaseDeskTest, AFullDiskEndsTheStepByName) {
  begin();
  const Offer offer = claim("a");
  const std::vector<std::byte> payload = token(0, 3);
  const auto size = std::filesystem::file_size(directory_.path() + "/log");
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{size + 4, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  const Status status = take(offer.lease, 0, payload);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), StatusCode::resource_exhausted);
  EXPECT_TRUE(desk_.wait(std::chrono::milliseconds(0)));
  const Status ended = desk_.end();
  EXPECT_EQ(ended.code(), StatusCode::resource_exhausted);
  EXPECT_NE(ended.message().find(directory_.path()), std::string::npos);
}

TEST_F(LeaseDeskTest, WorkersAreToldThatTheRunIsOver) {
  begin();
  claim("a");
  claim("b");
  EXPECT_TRUE(desk_.end().ok());
  EXPECT_FALSE(desk_.claim("had none", now_).value().has_value());
  desk_.close();
  EXPECT_EQ(desk_.num_untold(), 3u);
  EXPECT_EQ(desk_.claim("a", now_).error().code(), StatusCode::cancelled);
  EXPECT_EQ(desk_.num_untold(), 2u);
  EXPECT_EQ(desk_.claim("had none", now_).error().code(), StatusCode::cancelled);
  EXPECT_EQ(desk_.num_untold(), 1u);
}

TEST(FrameBatchTest, AnyBytesAreFramesOrAnError) {
  std::string batch;
  const std::vector<std::byte> payload(3);
  put_frame(batch, 7, 1, payload);
  put_frame(batch, 8, 2, payload);
  const std::vector<SentFrame> frames = frames_of_batch(batch).value();
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[1].lease, 8);
  EXPECT_EQ(frames[1].place, 2);
  EXPECT_EQ(frames[1].payload.size(), 3u);
  EXPECT_TRUE(frames_of_batch("").value().empty());
  for (size_t cut = 1; cut < batch.size(); ++cut) {
    const bool is_whole = cut == batch.size() / 2;
    EXPECT_EQ(frames_of_batch(std::string_view(batch).substr(0, cut)).has_value(), is_whole);
  }
}

TEST(OfferTest, ReadsWhatItWrites) {
  Offer offer;
  offer.lease = 3;
  offer.plan_hash = ~uint64_t{0};
  offer.precision = "fp8";
  offer.qat = true;
  const Offer read = parse_offer(offer_json(offer), "x").value();
  EXPECT_EQ(read.lease, 3);
  EXPECT_EQ(read.plan_hash, ~uint64_t{0});
  EXPECT_EQ(read.precision, "fp8");
  EXPECT_TRUE(read.qat);
  EXPECT_FALSE(parse_offer("[]", "x").has_value());
  EXPECT_FALSE(parse_offer("{}", "x").has_value());
}

}  // namespace
}  // namespace cachalot::rollout
