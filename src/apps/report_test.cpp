// Reports of written logs: what is read, computed and shown.
#include "apps/report.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "apps/report_charts.h"
#include "base/file.h"
#include "train/metrics.h"

namespace cachalot::apps {
namespace {

namespace fs = std::filesystem;

class ReportTest : public testing::Test {
 protected:
  ReportTest()
      : root_(fs::temp_directory_path() / ("cachalot_report_" + std::to_string(getpid()))) {
    fs::create_directories(root_);
  }
  ~ReportTest() override { fs::remove_all(root_); }

  std::string directory(const std::string& name) const { return (root_ / name).string(); }

  // 40 steps of 100 tokens; the loss of step s is base + 1 / s.
  void write_run(const std::string& name, double base, int64_t num_steps = 40) const {
    fs::create_directories(root_ / name);
    std::ofstream(root_ / name / "run.toml") << "# <i>&\nseed = 1\n";
    train::MetricsLog log = train::MetricsLog::open(directory(name) + "/metrics.jsonl", 0).value();
    for (int64_t s = 1; s <= num_steps; ++s) {
      ASSERT_TRUE(log.write(s, s * 100,
                            {{"loss/lm", s == 7 ? NAN : base + 1.0 / static_cast<double>(s)},
                             {"loss/mtp", 0},
                             {"clamp/up_above", 0},
                             {"update_rms/<w>", 0.2}})
                      .ok());
    }
    ASSERT_TRUE(log.write(num_steps, num_steps * 100, {{"validation/a/loss", base}}).ok());
    ASSERT_TRUE(log.write_event(12, "spike", "loss </td> \"7\"").ok());
  }

  const fs::path root_;
};

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST_F(ReportTest, ReadsSeriesOverTokensAndPlacesEvents) {
  write_run("a-s3", 2);
  const ReportRun run = read_report_run(directory("a-s3") + "/").value();
  EXPECT_EQ(run.name, "a-s3");
  EXPECT_EQ(run.group, "a");
  EXPECT_EQ(run.num_steps, 40);
  EXPECT_EQ(run.num_tokens, 4000);
  EXPECT_EQ(run.series.at("loss/lm").size(), 40u);
  EXPECT_EQ(run.series.at("loss/lm")[1], ChartPoint(200, 2.5));
  EXPECT_TRUE(std::isnan(run.series.at("loss/lm")[6].second));
  ASSERT_EQ(run.events.size(), 1u);
  EXPECT_EQ(run.events[0].tokens, 1200);
}

TEST_F(ReportTest, OneRunsPage) {
  write_run("run", 2);
  ASSERT_TRUE(write_report({directory("run")}, "").ok());
  const std::string page = read_text_file(directory("run") + "/report.html").value();
  EXPECT_NE(page.find("40 steps, 4K tokens"), std::string::npos);
  EXPECT_EQ(count(page, "<figure>"), 2u);          // losses, validation
  EXPECT_EQ(count(page, "stroke-dasharray"), 2u);  // the spike in both
  EXPECT_NE(page.find("loss/mtp: 0 throughout"), std::string::npos);
  EXPECT_NE(page.find("0 throughout: clamp/up_above<"), std::string::npos);
  EXPECT_NE(page.find("# &lt;i&gt;&amp;"), std::string::npos);
  EXPECT_NE(page.find("loss &lt;/td&gt; &quot;7&quot;"), std::string::npos);
  EXPECT_EQ(page.find("<w>"), std::string::npos);
  EXPECT_EQ(page.find("nan"), std::string::npos);
  // Nothing from elsewhere.
  for (const char* part : {"<script", "<link", "src=", "url(", "@import"})
    EXPECT_EQ(page.find(part), std::string::npos) << part;
}

TEST_F(ReportTest, AnEmptyRunHasAPage) {
  fs::create_directories(root_ / "empty");
  std::ofstream(root_ / "empty" / "metrics.jsonl");
  const std::string page = run_report(read_report_run(directory("empty")).value());
  EXPECT_NE(page.find("No step has been logged"), std::string::npos);
  const auto none = read_report_run(directory("none"));
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code(), StatusCode::not_found);
}

TEST_F(ReportTest, SeedsAreOneLineWithABand) {
  write_run("base-s1", 2);
  write_run("base-s2", 3, 30);
  write_run("other", 5);
  std::vector<ReportRun> runs;
  for (const char* name : {"base-s1", "base-s2", "other"})
    runs.push_back(read_report_run(directory(name)).value());
  const std::vector<ReportGroup> groups = groups_of(runs);
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].runs.size(), 2u);
  EXPECT_EQ(compared_metrics(groups), (std::vector<std::string>{"loss/lm", "validation/a/loss"}));
  const std::vector<ReportChart> charts = comparison_charts(groups);
  ASSERT_EQ(charts.size(), 2u);
  ASSERT_EQ(charts[0].drawing.bands.size(), 1u);
  const ChartBand& band = charts[0].drawing.bands[0];
  const std::vector<ChartPoint>& mean = charts[0].drawing.lines.at(0).points;
  ASSERT_EQ(band.x.size(), mean.size());
  EXPECT_EQ(band.x.back(), 3000);  // the shorter run's end
  for (size_t i = 0; i < mean.size(); ++i) {
    EXPECT_NEAR(band.high[i] - band.low[i], 1, 1e-9) << i;
    EXPECT_NEAR(mean[i].second, band.low[i] + 0.5, 1e-9) << i;
  }
  const std::string page = comparison_report(runs);
  EXPECT_NE(page.find("<td>2.5 <small>2…3</small></td><td>5</td>"), std::string::npos);
  EXPECT_EQ(write_report({directory("other"), directory("base-s1")}, "").code(),
            StatusCode::invalid_argument);
}

// In a process of its own, without the rights that root has everywhere.
TEST_F(ReportTest, APageThatCannotBeWrittenIsAnErrorAndLeavesNothing) {
  write_run("run", 2);
  fs::create_directory(root_ / "locked");
  fs::permissions(root_ / "locked", fs::perms::owner_read | fs::perms::owner_exec |
                                        fs::perms::others_read | fs::perms::others_exec);
  std::ofstream(root_ / "file");
  fs::create_directory(root_ / "directory");
  const pid_t child = ::fork();
  if (child == 0) {
    if (::geteuid() == 0 && ::seteuid(65534) != 0) ::_exit(2);
    const Status status = write_report({directory("run")}, directory("locked") + "/page.html");
    ::_exit(status.code() == StatusCode::io_error &&
                    status.message().starts_with(directory("locked") + "/page.html")
                ? 0
                : 1);
  }
  int state = 1;
  ASSERT_EQ(::waitpid(child, &state, 0), child);
  EXPECT_EQ(state, 0);
  EXPECT_TRUE(fs::is_empty(root_ / "locked"));
  for (const std::string path : {"file/page.html", "nowhere/page.html", "directory"}) {
    const Status status = write_report({directory("run")}, directory(path));
    EXPECT_FALSE(status.ok()) << path;
    EXPECT_TRUE(status.message().starts_with(directory(path))) << status.message();
  }
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(root_)) left.insert(entry.path().filename());
  EXPECT_EQ(left, (std::set<std::string>{"directory", "file", "locked", "run"}));
}

TEST_F(ReportTest, ShowsWhatAPolicyAnsweredAndEarned) {
  fs::create_directories(root_ / "rl");
  train::MetricsLog log = train::MetricsLog::open(directory("rl") + "/metrics.jsonl", 0).value();
  for (int64_t s = 1; s <= 30; ++s) {
    ASSERT_TRUE(log.write(s, s * 100,
                          {{"reward/mean", 0.01 * static_cast<double>(s)},
                           {"length/mean", 40},
                           {"policy/kl", 0.1},
                           {"distill/divergence", 0.2},
                           {"task/sums/divergence", 0.2},
                           {"policy/entropy", 1.5},
                           {"policy/clipped", 0.01},
                           {"policy/masked", 0},
                           {"policy/staleness", static_cast<double>(s % 2)}})
                    .ok());
  }
  std::ofstream samples(root_ / "rl" / "samples.jsonl");
  for (int s = 1; s <= 30; ++s) {
    samples << R"({"step": )" << s << R"(, "task": "sum-)" << s
            << R"(", "prompt": "1 < 2?", "answers": [{"text": "yes & no", "end": "stop", )"
            << R"("reward": 0.5, "why": "half <right>"}]})"
            << "\n";
  }
  // Taken again; and torn by a kill.
  samples << R"({"step": 30, "task": "again", "prompt": "p", "answers": []})"
          << "\n{\"step\": 3";
  samples.close();
  const Result<ReportRun> run = read_report_run(directory("rl"));
  ASSERT_TRUE(run.has_value()) << run.error().message();
  ASSERT_EQ(run->tasks.size(), 30u);
  EXPECT_EQ(run->tasks[29].name, "again");
  const std::string page = run_report(*run);
  for (const char* title : {"Reward", "Tokens of an answer", "Divergence from the reference",
                            "Divergence from the teachers", "Divergence from the teachers by task",
                            "Entropy", "Clipped, masked and flat shares", "Staleness, steps"}) {
    EXPECT_NE(page.find(fmt::format("<figcaption>{}</figcaption>", title)), std::string::npos)
        << title;
  }
  EXPECT_NE(page.find("policy/masked: 0 throughout"), std::string::npos);
  EXPECT_EQ(count(page, "<details><summary>Step "), 23u);
  EXPECT_EQ(count(page, "<details open><summary>Step 30: again"), 1u);
  EXPECT_NE(page.find("Step 1: sum-1"), std::string::npos);
  EXPECT_NE(page.find("yes &amp; no"), std::string::npos);
  EXPECT_NE(page.find("half &lt;right&gt;"), std::string::npos);
  std::ofstream(root_ / "rl" / "samples.jsonl") << "[]\n";
  const Result<ReportRun> bad = read_report_run(directory("rl"));
  ASSERT_FALSE(bad.has_value());
  EXPECT_NE(bad.error().message().find("samples.jsonl:1: expected an object, found array"),
            std::string::npos);
}

TEST_F(ReportTest, ExtremeLossesHaveAPage) {
  const double most = std::numeric_limits<double>::max();
  const std::vector<double> losses = {1e308, -1e308, NAN, INFINITY, -INFINITY, most, -most, 5e-324};
  for (const std::string name : {"x-s1", "x-s2"}) {
    fs::create_directories(root_ / name);
    train::MetricsLog log = train::MetricsLog::open(directory(name) + "/metrics.jsonl", 0).value();
    for (int64_t s = 1; s <= 48; ++s) {
      const double loss = losses[static_cast<size_t>(s) % losses.size()];
      ASSERT_TRUE(log.write(s, s * 100,
                            {{"loss/lm", loss},
                             {"loss/mtp", s < 24 ? 2.0 : loss},
                             {"optimizer/grad_norm", std::abs(loss)},
                             {"load/max_over_mean", most},
                             {"validation/a/loss", s % 2 == 0 ? most : -most}})
                      .ok());
    }
  }
  std::vector<ReportRun> runs;
  for (const char* name : {"x-s1", "x-s2"})
    runs.push_back(read_report_run(directory(name)).value());
  for (const std::string& page : {run_report(runs[0]), comparison_report(runs)}) {
    EXPECT_GE(count(page, "<figure>"), 4u);
    EXPECT_GE(count(page, "<polyline"), 4u);
    EXPECT_EQ(page.find("nan"), std::string::npos);
    EXPECT_EQ(page.find("inf"), std::string::npos);
  }
  EXPECT_EQ(mean(std::vector<double>{most, most}), most);
  EXPECT_EQ(smoothed({{0, most}, {1, most}, {2, -most}})[1].second, most);
  EXPECT_EQ(value_at({{0, -most}, {2, most}}, 1), 0);
}

TEST(ReportNumbers, SmoothingFinalValuesAndInterpolation) {
  const double gap = std::nan("");
  const std::vector<ChartPoint> points = {{0, 4}, {1, gap}, {2, 2}, {4, 6}};
  const std::vector<ChartPoint> smooth = smoothed(points);  // each value half as heavy as the next
  EXPECT_EQ(smooth[0].second, 4);
  EXPECT_TRUE(std::isnan(smooth[1].second));
  EXPECT_DOUBLE_EQ(smooth[2].second, (0.5 * 4 + 2) / 1.5);
  EXPECT_DOUBLE_EQ(smooth[3].second, (0.25 * 4 + 0.5 * 2 + 6) / 1.75);
  EXPECT_EQ(final_value(points), 6);
  EXPECT_TRUE(std::isnan(final_value({{0, gap}})));
  EXPECT_EQ(value_at(points, 0), 4);
  EXPECT_EQ(value_at(points, 1), 3);
  EXPECT_EQ(value_at(points, 3), 4);
  EXPECT_EQ(value_at(points, 4), 6);
  EXPECT_TRUE(std::isnan(value_at(points, 4.5)));
  EXPECT_TRUE(std::isnan(value_at(points, -1)));
}

TEST(ReportNumbers, GroupsAreNamedWithoutTheirSeed) {
  const auto group_of = [](const std::string& name) {
    const std::string path =
        fs::temp_directory_path() / ("cachalot_group_" + std::to_string(getpid())) / name;
    fs::create_directories(path);
    std::ofstream(path + "/run.toml");
    const std::string group = read_report_run(path).value().group;
    fs::remove_all(fs::path(path).parent_path());
    return group;
  };
  EXPECT_EQ(group_of("run-s12"), "run");
  EXPECT_EQ(group_of("run-s"), "run-s");
  EXPECT_EQ(group_of("run-small"), "run-small");
  EXPECT_EQ(group_of("a-s1-s2"), "a-s1");
}

}  // namespace
}  // namespace cachalot::apps
