// Charts as text: axes, gaps, escaping, thinning.
#include "apps/svg_chart.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <regex>

namespace cachalot::apps {
namespace {

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

SvgChart chart_of(std::vector<ChartPoint> points) {
  SvgChart chart;
  chart.lines.push_back({"a", "#123456", std::move(points), false, ""});
  chart.x = linear_axis("x", 0, 10);
  chart.y = axis_for(chart.lines, {}, 0, true);
  return chart;
}

TEST(SvgChart, AxesHoldTheirValuesOnRoundTicks) {
  for (const auto& [min, max] : {std::pair(0.0, 7.3),
                                 {2.17, 2.24},
                                 {-5.0, 12.0},
                                 {3.0, 3.0},
                                 {0.0, 0.0},
                                 {1e-9, 3e-9},
                                 {999.0, 1e9},
                                 {-1.0, -1.0}}) {
    const ChartAxis axis = linear_axis("", min, max);
    EXPECT_LE(axis.min, min);
    EXPECT_GE(axis.max, max);
    EXPECT_LT(axis.min, axis.max);
    EXPECT_GE(axis.ticks.size(), 3u) << min << " " << max;
    EXPECT_LE(axis.ticks.size(), 10u) << min << " " << max;
  }
  EXPECT_EQ(linear_axis("", 1, 7.3).min, 0);
  EXPECT_GT(linear_axis("", 6, 7.3).min, 0);
  const ChartAxis log = log_axis("", 0.003, 20);
  EXPECT_EQ(log.ticks.size(), 4u);
  EXPECT_EQ(log.ticks[0].label, "0.01");
}

TEST(SvgChart, TheScaleIsLogarithmicWhereThatHelps) {
  EXPECT_TRUE(chart_of({{0, 1}, {1, 50}}).y.is_log);
  EXPECT_FALSE(chart_of({{0, 1}, {1, 20}}).y.is_log);
  EXPECT_FALSE(chart_of({{0, 0}, {1, 50}}).y.is_log);
  const std::vector<ChartLine> lines = {{"", "", {{0, 90}, {1, 3}, {2, 2}}, false, ""}};
  EXPECT_LE(axis_for(lines, {}, 0.5, true).max, 3.0);
  EXPECT_FALSE(axis_for(lines, {}, 0, false).is_log);
}

TEST(SvgChart, GapsBreakALineAndALonePointIsADot) {
  const double gap = std::nan("");
  const std::string svg =
      svg_chart(chart_of({{0, 1}, {1, 2}, {2, gap}, {3, 2}, {4, gap}, {5, 1}, {6, 2}, {7, 2}}));
  EXPECT_EQ(count(svg, "<polyline"), 2u);
  EXPECT_EQ(count(svg, "<circle"), 1u);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(count(svg_chart(chart_of({{0, gap}})), "<polyline"), 0u);
}

// Whatever the values, every coordinate is a short number.
TEST(SvgChart, ExtremeValuesAreDrawn) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  constexpr double kMost = std::numeric_limits<double>::max();
  const std::vector<double> values = {0,     1,      -1,     1e308, -1e308,       kMost, -kMost,
                                      1e300, 5e-324, 1e-310, 3e9,   std::nan(""), kInf,  -kInf};
  const std::regex not_a_coordinate("nan|inf|[0-9]{8}");
  for (const double first : values) {
    for (const double second : values) {
      for (const double third : values) {
        for (const bool may_be_log : {false, true}) {
          SvgChart chart =
              chart_of({{0, first}, {1, second}, {2, third}, {3, 2}, {4, 3}, {5, 2.5}});
          chart.lines[0].note = "note";
          if (std::isfinite(first) && std::isfinite(second))
            chart.bands.push_back({"", {1, 2}, {first, first}, {second, second}});
          chart.y = axis_for(chart.lines, chart.bands, may_be_log ? 0 : 2.5, may_be_log);
          ASSERT_FALSE(chart.y.ticks.empty()) << first << " " << second << " " << third;
          std::smatch found;
          const std::string svg = svg_file(chart);
          ASSERT_FALSE(std::regex_search(svg, found, not_a_coordinate))
              << first << " " << second << " " << third << ": " << found.str();
        }
      }
    }
  }
  EXPECT_EQ(count(svg_chart(chart_of({{0, -1e308}, {1, 1e308}})), "<polyline"), 1u);
}

TEST(SvgChart, PointsLieWhereTheAxesSay) {
  SvgChart chart = chart_of({{0, 0}, {10, 4}});
  chart.width = 120, chart.height = 110;
  chart.left = 10, chart.right = 10, chart.top = 5, chart.bottom = 5;
  EXPECT_NE(svg_chart(chart).find("points=\"10.0,105.0 110.0,5.0\""), std::string::npos);
}

TEST(SvgChart, TextsAreEscaped) {
  SvgChart chart = chart_of({{0, 1}, {1, 2}});
  chart.title = chart.x.title = chart.y.title = chart.lines[0].label = chart.lines[0].note =
      chart.lines[0].color = "<b a=\"1\">&'";
  chart.marks.push_back({1, "red", "<script>"});
  chart.has_legend = true;
  chart.top = 60;
  const std::string svg = svg_file(chart);
  EXPECT_EQ(svg.find("<b"), std::string::npos);
  EXPECT_EQ(svg.find("<script"), std::string::npos);
  EXPECT_GE(count(svg, "&lt;b a=&quot;1&quot;&gt;&amp;&#39;"), 6u);
}

TEST(SvgChart, ThinningKeepsExtremesAndGaps) {
  std::vector<ChartPoint> points;
  for (int i = 0; i < 10000; ++i) points.emplace_back(i, std::sin(i * 0.37));
  points[4321].second = 99;
  points[8000].second = -99;
  points[6000].second = std::nan("");
  const std::vector<ChartPoint> thin = thin_points(points, 100);
  EXPECT_LE(thin.size(), 203u);
  EXPECT_EQ(count(svg_chart(chart_of(thin)), "<polyline"), 2u);
  double least = 0, most = 0;
  for (size_t i = 0; i < thin.size(); ++i) {
    if (thin[i].second < least) least = thin[i].second;
    if (thin[i].second > most) most = thin[i].second;
    EXPECT_LE(thin[i > 0 ? i - 1 : 0].first, thin[i].first);
  }
  EXPECT_EQ(least, -99);
  EXPECT_EQ(most, 99);
}

TEST(SvgChart, ThinningTakesPointsAtOnePlace) {
  std::vector<ChartPoint> points(1000, {7, 1});
  points[500].second = 3;
  EXPECT_EQ(thin_points(points, 10), (std::vector<ChartPoint>{{7, 1}, {7, 3}}));
}

TEST(SvgChart, NumbersAreShort) {
  EXPECT_EQ(short_number(0), "0");
  EXPECT_EQ(short_number(2.93456), "2.935");
  EXPECT_EQ(short_number(163840000), "163.8M");
  EXPECT_EQ(short_number(999999), "1M");
  EXPECT_EQ(short_number(-40000), "-40K");
  EXPECT_EQ(short_number(0.001), "0.001");
  EXPECT_EQ(short_number(1e-05), "1e-5");
  EXPECT_EQ(short_number(-0.000199999), "-2e-4");
  EXPECT_EQ(short_number(9.99999e-5), "1e-4");
  EXPECT_EQ(short_number(-1e308), "-1e+308");
  EXPECT_EQ(short_number(5e-324), "4.941e-324");
  EXPECT_EQ(short_number(std::nan("")), "–");
}

}  // namespace
}  // namespace cachalot::apps
