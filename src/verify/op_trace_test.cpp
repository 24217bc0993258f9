// What the trace says of a pass that parts from float64: which op, at which place, for which token.
#include "verify/op_trace.h"

#include <gtest/gtest.h>

#include <limits>

namespace cachalot::verify {
namespace {

constexpr double kUlp = 0x1p-7;  // of bf16 in [1, 2)

Mat mat(int64_t rows, int64_t columns, std::vector<double> values) {
  Mat m(rows, columns);
  m.values = std::move(values);
  return m;
}

// A made-up pass of ops over two tokens: what the model made of each, and what float64 allows.
class OpTrace : public ::testing::Test {
 protected:
  void made(std::string_view op, const std::vector<float>& values) {
    record_.on_op(op, values.data(), 2, 2, 2);
  }
  // bf16 unless `is_bf16` is false; what lies between lo and hi may be.
  Mat compare(std::string_view op, const Mat& value, const Mat& lo, const Mat& hi,
              bool is_bf16 = true, std::span<const int64_t> tokens = {}) {
    Mat passed = value;
    trace_.on_op({op, is_bf16, tokens, lo, hi}, passed);
    return passed;
  }
  Mat compare(std::string_view op, const Mat& value) { return compare(op, value, value, value); }

  std::string turned(int64_t token, bool shared = false) const {
    const std::string* op = trace_.first_turned(token, shared);
    return op == nullptr ? "none" : *op;
  }
  std::string edge(int64_t token, bool shared = false) const {
    const std::string* op = trace_.first_edge(token, shared);
    return op == nullptr ? "none" : *op;
  }

  formats::ModelConfig config_;
  OpRecorder record_{config_};
  OpComparison trace_{record_};
  const Mat ones_ = mat(2, 2, {1, 1, 1, 1});
};

TEST_F(OpTrace, EqualBitsHaveNoParting) {
  made("wq_a", {1, 1, 1, 1});
  compare("wq_a", ones_);
  EXPECT_TRUE(trace_.failures().empty());
  EXPECT_EQ(trace_.num_values(), 4);
  EXPECT_EQ(trace_.num_turned(), 0);
  for (const int64_t token : {0, 1}) {
    EXPECT_EQ(turned(token), "none");
    EXPECT_EQ(edge(token), "none");
  }
}

// Token 1 parts at the second op, within the bound of an edge, and at the third again: the second
// is named. Token 0 stays.
TEST_F(OpTrace, TheFirstOpAtWhichATokensBitsPartIsNamed) {
  made("wq_a", {1, 1, 1, 1});
  made("wq_b", {1, 1, 1, static_cast<float>(1 + kUlp)});
  made("wo_a", {1, 1, static_cast<float>(1 + kUlp), 1});
  compare("wq_a", ones_);
  const Mat hi_b = mat(2, 2, {1, 1, 1, 1 + kUlp}), hi_o = mat(2, 2, {1, 1, 1 + kUlp, 1});
  compare("wq_b", ones_, ones_, hi_b);
  compare("wo_a", ones_, ones_, hi_o);
  EXPECT_TRUE(trace_.failures().empty());
  EXPECT_EQ(trace_.num_turned(), 2);
  EXPECT_EQ(turned(1), "wq_b");
  EXPECT_EQ(edge(1), "wq_b");
  EXPECT_EQ(turned(0), "none");
  EXPECT_EQ(edge(0), "none");
}

// A value that might have fallen the other way and did not is an edge, and no parting.
TEST_F(OpTrace, AnEdgeIsNotAParting) {
  made("wq_a", {1, 1, 1, 1});
  made("wo_b", {1, static_cast<float>(1 + kUlp), 1, 1});
  const Mat hi = mat(2, 2, {1, 1 + kUlp, 1, 1});
  compare("wq_a", ones_, ones_, hi);
  compare("wo_b", ones_, ones_, hi);
  EXPECT_EQ(edge(0), "wq_a");
  EXPECT_EQ(turned(0), "wo_b");
  EXPECT_EQ(edge(1), "none");
}

// What other tokens read of a token, and nothing else, counts as shared: stored rows, and the
// streams before attention, not those before the experts (the second call).
TEST_F(OpTrace, SharedOpsAreThoseThatOtherTokensRead) {
  const std::vector<float> parted = {1, 1, static_cast<float>(1 + kUlp), 1};
  const Mat hi = mat(2, 2, {1, 1, 1 + kUlp, 1});
  made("wq_b", parted);
  made("hc.u", {1, 1, 1, 1});
  made("hc.u", parted);
  made("kv.row", parted);
  compare("wq_b", ones_, ones_, hi);
  compare("hc.u", ones_);
  compare("hc.u", ones_, ones_, hi);
  EXPECT_EQ(turned(1), "wq_b");
  EXPECT_EQ(turned(1, true), "none");
  compare("kv.row", ones_, ones_, hi);
  EXPECT_EQ(turned(1, true), "kv.row");
}

// Rows of experts belong to tokens in an order of their own.
TEST_F(OpTrace, RowsOfOtherOrderNameTheirTokens) {
  made("experts.gate", {static_cast<float>(1 + kUlp), 1, 1, 1});
  const Mat hi = mat(2, 2, {1 + kUlp, 1, 1, 1});
  const std::vector<int64_t> tokens = {7, 3};
  compare("experts.gate", ones_, ones_, hi, true, tokens);
  EXPECT_EQ(turned(7), "experts.gate");
  EXPECT_EQ(turned(3), "none");
  EXPECT_EQ(turned(0), "none");
}

TEST_F(OpTrace, AValueOutsideItsBoundFailsWithItsPlace) {
  made("wkv", {1, 1, static_cast<float>(1 + 2 * kUlp), 0.5f});
  const Mat hi = mat(2, 2, {1, 1, 1 + kUlp, 1});
  compare("wkv", ones_, ones_, hi);
  EXPECT_EQ(trace_.failures(),
            std::vector<std::string>{
                "wkv: 2 outside the bound, first at [1, 0] expected 1 to 1.0078125, found "
                "1.015625"});
}

// Between two bf16 values lies none: an op that forgets its rounding fails within its bound.
TEST_F(OpTrace, AValueThatIsNotRoundedFails) {
  const float between = 1 + static_cast<float>(kUlp) / 2;
  made("wkv", {1, between, 1, 1});
  made("gate", {1, between, 1, 1});
  const Mat hi = mat(2, 2, {1, 1 + kUlp, 1, 1});
  compare("wkv", ones_, ones_, hi);
  EXPECT_EQ(trace_.failures().size(), 1u);
  EXPECT_NE(trace_.failures().at(0).find("in bf16"), std::string::npos);
  compare("gate", ones_, ones_, hi, false);  // fp32 is not rounded
  EXPECT_EQ(trace_.failures().size(), 1u);
}

TEST_F(OpTrace, NanFails) {
  made("gate", {1, std::numeric_limits<float>::quiet_NaN(), 1, 1});
  compare("gate", ones_, ones_, ones_, false);
  EXPECT_EQ(trace_.failures().size(), 1u);
}

// Later ops read what the model made, so that no difference grows.
TEST_F(OpTrace, TheModelsValuesGoOn) {
  made("wkv", {1, 1, static_cast<float>(1 + kUlp), 1});
  const Mat hi = mat(2, 2, {1, 1, 1 + kUlp, 1});
  EXPECT_EQ(compare("wkv", ones_, ones_, hi).values, hi.values);
}

TEST_F(OpTrace, AnOpThatWasNotMadeOrHasAnotherShapeFails) {
  made("wkv", {1, 1, 1, 1});
  const Mat wide = mat(2, 3, {1, 1, 1, 1, 1, 1});
  compare("wkv", wide);
  compare("wq_a", ones_);
  EXPECT_EQ(
      trace_.failures(),
      (std::vector<std::string>{"wkv: 1 outside the bound, first expected [2, 3], found [2, 2]",
                                "wq_a: 1 outside the bound, first expected [2, 2], found none"}));
}

// A call is compared with the call of the same name and number.
TEST_F(OpTrace, CallsAreTakenInOrder) {
  made("norm", {1, 1, 1, 1});
  made("norm", {2, 2, 2, 2});
  compare("norm", ones_);
  compare("norm", mat(2, 2, {2, 2, 2, 2}));
  EXPECT_TRUE(trace_.failures().empty());
  compare("norm", ones_);
  EXPECT_EQ(trace_.failures().size(), 1u);  // there was no third
}

class OpTraceChoice : public OpTrace {
 protected:
  void SetUp() override {
    config_.num_experts_per_tok = 2;
    config_.index_topk = 3;
  }
  std::vector<int64_t> choose(std::vector<double> lo, std::vector<double> hi,
                              std::vector<int64_t> taken, std::string_view name = "routing",
                              int64_t token = 0) {
    trace_.on_choice(name, token, lo, hi, taken);
    return taken;
  }
};

TEST_F(OpTraceChoice, TheModelsChoiceOfEqualScoresIsTheLowest) {
  const int32_t lowest[] = {0, 1}, other[] = {0, 2};
  record_.on_router(0, lowest, nullptr, 1);
  const std::vector<double> scores = {2, 1, 1};
  EXPECT_EQ(choose(scores, scores, {0, 1}), (std::vector<int64_t>{0, 1}));
  EXPECT_TRUE(trace_.failures().empty());
  EXPECT_EQ(edge(0), "none");

  record_.on_router(0, other, nullptr, 1);
  choose(scores, scores, {0, 1}, "routing", 1);
  EXPECT_EQ(trace_.failures(),
            std::vector<std::string>{"routing: 1 outside the bound, first token 1: took 2 with at "
                                     "most 1, left 1 with at least 1"});
}

TEST_F(OpTraceChoice, AnotherChoiceWithinTheBoundPartsAndGoesOn) {
  const int32_t taken[] = {0, 2};
  record_.on_router(0, taken, nullptr, 1);
  EXPECT_EQ(choose({2, 0.9, 0.8}, {2, 1.1, 1.0}, {0, 1}), (std::vector<int64_t>{0, 2}));
  EXPECT_TRUE(trace_.failures().empty());
  EXPECT_EQ(trace_.num_choices_turned(), 1);
  EXPECT_EQ(turned(0), "routing");
}

// Padding of a selection (-1) is no candidate; a choice of other size, twice the same, or of what
// is not there fails.
TEST_F(OpTraceChoice, WhatIsNoChoiceFails) {
  const int32_t rows[] = {0, 1, -1, 0, 0, 1, 0, 1, 9};
  record_.on_selection(0, rows, 3);
  const std::vector<double> scores = {2, 1, 1};
  choose(scores, scores, {0, 1}, "selection", 0);
  EXPECT_TRUE(trace_.failures().empty());
  choose(scores, scores, {0, 1}, "selection", 1);
  choose(scores, scores, {0, 1, 2}, "selection", 1);
  choose(scores, scores, {0, 1, 2}, "selection", 2);
  choose(scores, scores, {0, 1, 2}, "selection", 3);
  EXPECT_EQ(trace_.failures(),
            std::vector<std::string>{"selection: 4 outside the bound, first token 1: expected 2 "
                                     "candidates, found 3"});
}

}  // namespace
}  // namespace cachalot::verify
