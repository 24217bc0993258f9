// A chart as SVG text: axes, lines, bands, marks. The drawing names no font and no colour of its
// own but by class (grid, axis, tick, title, end), so that a page's style sheet decides; svg_file()
// gives a file that stands alone. Colours are whatever CSS takes: "#1b5fa8", "var(--line-1)". Every
// text is escaped here.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cachalot::apps {

using ChartPoint =
    std::pair<double,
              double>;  // x, y; a y that is not finite, or that a log axis cannot show, is a gap

struct ChartTick {
  double at;
  std::string label;
};

struct ChartAxis {
  std::string title;
  double min = 0;
  double max = 1;
  bool is_log = false;
  std::vector<ChartTick> ticks;  // within [min, max]
};

struct ChartLine {
  std::string label;
  std::string color;
  std::vector<ChartPoint> points;  // x ascends
  bool is_faint = false;
  std::string note;  // at the right end, if any
};

struct ChartBand {
  std::string color;
  std::vector<double> x, low, high;  // of equal length, all finite
};

struct ChartMark {
  double x;
  std::string color;
  std::string hint;  // shown under the pointer
};

struct SvgChart {
  std::string title;  // for readers of the screen; drawn if top leaves it room
  ChartAxis x, y;     // what lies outside is cut off
  std::vector<ChartLine> lines;
  std::vector<ChartBand> bands;
  std::vector<ChartMark> marks;
  bool has_legend = false;  // inside the plot, at its upper left
  // The drawing's size and the plot's margins.
  double width = 560, height = 270;
  double left = 70, right = 22, top = 10, bottom = 44;
};

// <svg>...</svg>
std::string svg_chart(const SvgChart& chart);
// The same with a style for paper.
std::string svg_file(const SvgChart& chart);

std::string escape_html(std::string_view text);

// An axis of round ticks that holds [min, max], from zero where that is near; max == min is
// widened. Values are finite; beyond 1e300 the axis ends, and below 1e-300 a logarithmic one does.
ChartAxis linear_axis(std::string title, double min, double max);
// Likewise with a logarithmic scale; 0 < min.
ChartAxis log_axis(std::string title, double min, double max);
// For the values at x >= from_x; those that are not finite do not count. Logarithmic, if
// may_be_log, where every value is positive and the greatest is more than 30 times the least.
ChartAxis axis_for(const std::vector<ChartLine>& lines, const std::vector<ChartBand>& bands,
                   double from_x, bool may_be_log);

// "0", "250K", "1.5M", "3.2e-5": at most four digits.
std::string short_number(double value);

// Points that draw like `points` in about 2 * num_columns: in each column of x its least and
// greatest value, in order.
std::vector<ChartPoint> thin_points(const std::vector<ChartPoint>& points, size_t num_columns);

}  // namespace cachalot::apps
