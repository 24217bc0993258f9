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

TEST_F(MetricsTest, BadLinesNameTheirPlace) {
  std::ofstream(path("m.jsonl")) << "{\"step\": 1, \"tokens\": 1}\n[1]\n";
  const auto lines = read_metrics(path("m.jsonl"));
  ASSERT_FALSE(lines.has_value());
  EXPECT_NE(lines.error().message().find("m.jsonl:2"), std::string::npos);
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

}  // namespace
}  // namespace cachalot::train
