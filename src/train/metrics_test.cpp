// The metrics log, and the spike detector that reads its losses.
#include "train/metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "data/data_testing.h"
#include "train/spike_detector.h"

namespace cachalot::train {
namespace {

class MetricsTest : public data::DataFiles {};

TEST_F(MetricsTest, EveryStepStandsThereOnceAfterAResume) {
  {
    MetricsLog log = MetricsLog::open(path("m.jsonl"), 0).value();
    for (int64_t step = 1; step <= 5; ++step)
      ASSERT_TRUE(log.write(step, step * 10, {{"loss/lm", 1.0 / static_cast<double>(step)}}).ok());
    ASSERT_TRUE(log.write_event(5, "spike", "loss \"7\"").ok());
  }
  std::ofstream(path("m.jsonl"), std::ios::app) << "{\"step\": 6, \"tok";  // torn by a kill
  MetricsLog log = MetricsLog::open(path("m.jsonl"), 3).value();
  ASSERT_TRUE(log.write(4, 40, {{"loss/lm", std::nan("")}}).ok());
  const std::vector<MetricsLine> lines = read_metrics(path("m.jsonl")).value();
  ASSERT_EQ(lines.size(), 4u);
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i].step, static_cast<int64_t>(i) + 1);
  EXPECT_EQ(lines[2].values.at(0).second, 1.0 / 3.0);
  EXPECT_EQ(lines[2].tokens, 30);
  EXPECT_TRUE(std::isnan(lines[3].values.at(0).second));
}

TEST_F(MetricsTest, RewindingKeepsEvents) {
  MetricsLog log = MetricsLog::open(path("m.jsonl"), 0).value();
  for (int64_t step = 1; step <= 3; ++step) ASSERT_TRUE(log.write(step, step, {}).ok());
  ASSERT_TRUE(log.write_event(3, "spike", "x").ok());
  ASSERT_TRUE(log.rewind(1).ok());
  ASSERT_TRUE(log.write(2, 2, {}).ok());
  const std::vector<MetricsLine> lines = read_metrics(path("m.jsonl")).value();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[1].event, "spike");
  EXPECT_EQ(lines[2].step, 2);
}

// A run killed after a rollback goes on from before the spike that it went back from.
TEST_F(MetricsTest, TheSpikeOfARollbackStaysAfterAResume) {
  {
    MetricsLog log = MetricsLog::open(path("m.jsonl"), 0).value();
    for (int64_t step = 1; step <= 5; ++step) ASSERT_TRUE(log.write(step, step, {}).ok());
    ASSERT_TRUE(log.write_event(5, "spike", "bridged").ok());
    ASSERT_TRUE(log.rewind(2).ok());
    ASSERT_TRUE(log.write_event(2, "rollback", "x").ok());
    for (int64_t step = 3; step <= 4; ++step) ASSERT_TRUE(log.write(step, step, {}).ok());
    ASSERT_TRUE(log.write_event(4, "spike", "to come again").ok());
  }
  ASSERT_TRUE(MetricsLog::open(path("m.jsonl"), 3).has_value());
  const std::vector<MetricsLine> lines = read_metrics(path("m.jsonl")).value();
  std::vector<std::string> left;
  for (const MetricsLine& line : lines)
    left.push_back(line.event.empty() ? std::to_string(line.step) : line.detail);
  EXPECT_EQ(left, (std::vector<std::string>{"1", "2", "bridged", "x", "3"}));
}

TEST_F(MetricsTest, BadLinesNameTheirPlace) {
  const std::string good = "{\"step\": 1, \"tokens\": 1}\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not valid JSON"},
      {"{\"step\": 2, \"tok", "not valid JSON"},
      {"{\"step\": 2, \"tokens\": 2} 3", "end at byte"},
      {"{\"step\": 2, \"tokens\": 2, \"a\": NaN}", "not valid JSON"},
      {"{\"step\": 2, \"tokens\": 2, \"a\": \"\xff\"}", "not valid JSON"},
      {"[1]", "expected an object, found array"},
      {"{\"tokens\": 2}", "step: expected a whole number that is not negative, found none"},
      {"{\"step\": 2.0, \"tokens\": 2}", "step: expected a whole number"},
      {"{\"step\": -1, \"tokens\": 2}", "found -1"},
      {"{\"step\": 18446744073709551615, \"tokens\": 2}", "found 18446744073709551615"},
      {"{\"step\": 2}", "tokens: expected a whole number"},
      {"{\"step\": 2, \"tokens\": \"2\"}", "tokens: expected a whole number"},
      {"{\"step\": 2, \"tokens\": 2, \"a\": \"x\"}",
       "a: expected a finite number or null, found \"x\""},
      {"{\"step\": 2, \"tokens\": 2, \"a\": true}",
       "a: expected a finite number or null, found true"},
      {"{\"step\": 2, \"tokens\": 2, \"a\": [1]}",
       "a: expected a finite number or null, found [1]"},
      {"{\"step\": 2, \"tokens\": 2, \"a\": 1e999}", "a: expected a finite number"},
      {"{\"step\": 2, \"tokens\": 2, \"a\": 1, \"a\": 2}",
       "expected every key once, found \"a\" again"},
      {"{\"step\": 2, \"tokens\": 2, \"detail\": \"x\"}",
       "detail: expected a finite number or null"},
      {"{\"step\": 2, \"event\": \"spike\"}", "detail: expected a string, found none"},
      {"{\"step\": 2, \"event\": 7, \"detail\": \"x\"}", "event: expected a string, found 7"},
      {"{\"step\": 2, \"event\": \"\", \"detail\": \"x\"}", "event: expected a name"},
      {"{\"step\": 2, \"event\": \"spike\", \"detail\": \"x\", \"tokens\": 2}",
       "tokens: expected none in an event"},
  };
  for (const auto& [line, part] : cases) {
    std::ofstream(path("m.jsonl")) << good << line << "\n" << good;
    const auto lines = read_metrics(path("m.jsonl"));
    ASSERT_FALSE(lines.has_value()) << line;
    EXPECT_EQ(lines.error().code(), StatusCode::data_loss) << line;
    const std::string& message = lines.error().message();
    EXPECT_TRUE(message.starts_with(path("m.jsonl") + ":2: ")) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
    EXPECT_FALSE(MetricsLog::open(path("m.jsonl"), 1).has_value()) << line;
  }
}

// Whatever part of a line a kill has left, the lines before it are read and a resumed log goes on
// after them.
TEST_F(MetricsTest, ATornLastLineIsLeftOut) {
  const std::string whole = "{\"step\": 2, \"tokens\": 2, \"a\": 1.5, \"b\": null}";
  for (size_t length = 0; length <= whole.size(); ++length) {
    std::ofstream(path("m.jsonl")) << "{\"step\": 1, \"tokens\": 1}\n" << whole.substr(0, length);
    ASSERT_EQ(read_metrics(path("m.jsonl")).value().size(), 1u) << length;
    MetricsLog log = MetricsLog::open(path("m.jsonl"), 1).value();
    ASSERT_TRUE(log.write(2, 2, {{"a", 1e308}, {"b", -5e-324}}).ok());
    const std::vector<MetricsLine> lines = read_metrics(path("m.jsonl")).value();
    ASSERT_EQ(lines.size(), 2u) << length;
    EXPECT_EQ(lines[1].values, (MetricValues{{"a", 1e308}, {"b", -5e-324}}));
  }
}

TEST(SpikeDetector, TellsSpikesAndNothingElse) {
  SpikeDetector detector(SpikeConfig{});
  for (int i = 0; i < 400; ++i) {
    const double noise = 0.02 * std::sin(i * 12.9898);
    EXPECT_EQ(detector.add(4.0 * std::exp(-i / 300.0) + 2 + noise, 1.0 + noise), "") << i;
  }
  EXPECT_EQ(detector.history().size(), 200u);
  EXPECT_NE(detector.add(9.0, 1.0), "");
  EXPECT_NE(detector.add(3.0, 7.0), "");
  EXPECT_NE(detector.add(std::nan(""), 1.0), "");
  EXPECT_EQ(detector.history().size(), 200u);  // spikes do not enter
  EXPECT_EQ(detector.add(3.05, 1.0), "");
}

// However long the loss or the norm stays up, it is measured by what was before: with the spikes
// in the window their height would be its median after half of it.
TEST(SpikeDetector, AsManySpikesAsTheWindowHoldsStaySpikes) {
  for (const bool is_loss : {true, false}) {
    SpikeDetector detector({.window = 20, .min_steps = 10});
    for (int i = 0; i < 20; ++i) EXPECT_EQ(detector.add(2.0, 1.0), "");
    for (int i = 0; i < 40; ++i)
      EXPECT_NE(detector.add(is_loss ? 3.0 : 2.0, is_loss ? 1.0 : 6.0), "") << i;
    EXPECT_EQ(detector.add(2.0, 1.0), "");
  }
}

}  // namespace
}  // namespace cachalot::train
