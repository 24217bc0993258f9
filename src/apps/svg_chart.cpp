#include "apps/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace cachalot::apps {
namespace {

constexpr double kMostShown = 1e300;    // the width of a range up to here is finite
constexpr double kLeastShown = 1e-300;  // and a power of ten down to here exact
constexpr double kFarOutside = 1000;    // in sizes of the plot

// Where values lie in the drawing.
class Frame {
 public:
  explicit Frame(const SvgChart& chart)
      : chart_(chart),
        left(chart.left),
        right(chart.width - chart.right),
        top(chart.top),
        bottom(chart.height - chart.bottom) {}
  double x(double value) const { return left + (right - left) * share(chart_.x, value); }
  double y(double value) const { return bottom - (bottom - top) * share(chart_.y, value); }

 private:
  // What lies far outside is cut off wherever it lies, and its coordinates stay short.
  static double share(const ChartAxis& axis, double value) {
    const double from = axis.is_log ? std::log(axis.min) : axis.min;
    const double to = axis.is_log ? std::log(axis.max) : axis.max;
    const double at = axis.is_log ? std::log(value) : value;
    return std::clamp((at - from) / (to - from), -kFarOutside, kFarOutside);
  }
  const SvgChart& chart_;

 public:
  const double left, right, top, bottom;
};

std::string text(double x, double y, std::string_view anchor, std::string_view style,
                 std::string_view content) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\" {}>{}</text>\n", x, y,
                     anchor, style, escape_html(content));
}

std::string line(double x1, double y1, double x2, double y2, std::string_view css_class) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" class=\"{}\"/>\n", x1, y1, x2,
      y2, css_class);
}

std::string axes(const SvgChart& chart, const Frame& frame) {
  std::string out;
  for (const ChartTick& tick : chart.y.ticks) {
    const double y = frame.y(tick.at);
    out += line(frame.left, y, frame.right, y, "grid");
    out += text(frame.left - 8, y + 4.5, "end", "class=\"tick\"", tick.label);
  }
  out += line(frame.left, frame.bottom, frame.right, frame.bottom, "axis-line");
  for (const ChartTick& tick : chart.x.ticks) {
    const double x = frame.x(tick.at);
    out += line(x, frame.bottom, x, frame.bottom + 5, "axis-line");
    out += text(x, frame.bottom + 20, "middle", "class=\"tick\"", tick.label);
  }
  if (!chart.x.title.empty()) {
    out += text((frame.left + frame.right) / 2, chart.height - 6, "middle", "class=\"axis\"",
                chart.x.title);
  }
  if (!chart.y.title.empty()) {
    out += fmt::format(
        "<text transform=\"translate(18 {:.1f}) rotate(-90)\" text-anchor=\"middle\" "
        "class=\"axis\">{}</text>\n",
        (frame.top + frame.bottom) / 2, escape_html(chart.y.title));
  }
  return out;
}

bool is_drawable(const ChartAxis& axis, double value) {
  return std::isfinite(value) && (!axis.is_log || value > 0);
}

// A point between two gaps is a dot.
std::string curve(const SvgChart& chart, const Frame& frame, const ChartLine& shown) {
  std::string out;
  const double width = shown.is_faint ? 1 : 2;
  const char* opacity = shown.is_faint ? ";stroke-opacity:.3" : "";
  for (size_t begin = 0; begin < shown.points.size();) {
    size_t end = begin;
    std::string points;
    for (; end < shown.points.size() && is_drawable(chart.y, shown.points[end].second); ++end) {
      points += fmt::format("{}{:.1f},{:.1f}", end == begin ? "" : " ",
                            frame.x(shown.points[end].first), frame.y(shown.points[end].second));
    }
    if (end - begin == 1) {
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" style=\"fill:{}\"/>\n",
                         frame.x(shown.points[begin].first), frame.y(shown.points[begin].second),
                         shown.is_faint ? 1.2 : 3, escape_html(shown.color));
    } else if (end > begin) {
      out += fmt::format(
          "<polyline fill=\"none\" stroke-width=\"{}\" stroke-linejoin=\"round\" "
          "style=\"stroke:{}{}\" points=\"{}\"/>\n",
          width, escape_html(shown.color), opacity, points);
    }
    begin = std::max(end, begin + 1);
  }
  return out;
}

std::string band(const SvgChart& chart, const Frame& frame, const ChartBand& shown) {
  std::string points;
  const auto add = [&](double x, double y) {
    if (chart.y.is_log) y = std::max(y, chart.y.min);
    points += fmt::format("{:.1f},{:.1f} ", frame.x(x), frame.y(y));
  };
  for (size_t i = 0; i < shown.x.size(); ++i) add(shown.x[i], shown.high[i]);
  for (size_t i = shown.x.size(); i-- > 0;) add(shown.x[i], shown.low[i]);
  return fmt::format("<polygon style=\"fill:{};fill-opacity:.18\" points=\"{}\"/>\n",
                     escape_html(shown.color), points);
}

std::string mark(const Frame& frame, const ChartMark& shown) {
  const double x = frame.x(shown.x);
  return fmt::format(
      "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke-width=\"1.4\" "
      "stroke-dasharray=\"4 3\" style=\"stroke:{3}\"><title>{4}</title></line>\n",
      x, frame.top, frame.bottom, escape_html(shown.color), escape_html(shown.hint));
}

// Notes at the right end; those that would overlap move apart, lowest line first.
std::string end_notes(const SvgChart& chart, const Frame& frame) {
  std::vector<std::pair<double, const ChartLine*>> ends;
  for (const ChartLine& shown : chart.lines) {
    if (!shown.note.empty() && !shown.points.empty() &&
        is_drawable(chart.y, shown.points.back().second))
      ends.emplace_back(frame.y(shown.points.back().second), &shown);
  }
  std::sort(ends.begin(), ends.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  std::string out;
  double limit = frame.bottom + 6;
  for (const auto& [y, shown] : ends) {
    const double at = std::min(y + 4.5, limit);
    limit = at - 20;
    const std::string fill = fmt::format("style=\"fill:{}\"", escape_html(shown->color));
    out +=
        fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.6\" {}/>\n", frame.right, y, fill);
    out += text(frame.right + 12, at, "start", "class=\"end\" " + fill, shown->note);
  }
  return out;
}

std::string legend(const SvgChart& chart, const Frame& frame) {
  std::string out;
  double y = frame.top + 14;
  for (const ChartLine& shown : chart.lines) {
    out += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke-width=\"2.6\" "
        "style=\"stroke:{}\"/>\n",
        frame.left + 16, y, frame.left + 44, y, escape_html(shown.color));
    out += text(frame.left + 52, y + 4.5, "start", "class=\"tick\"", shown.label);
    y += 22;
  }
  return out;
}

std::string draw(const SvgChart& chart, std::string_view inside) {
  const Frame frame(chart);
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" "
      "height=\"{:.0f}\" role=\"img\" aria-label=\"{}\">\n{}",
      chart.width, chart.height, chart.width, chart.height, escape_html(chart.title), inside);
  if (chart.top >= 40) out += text(frame.left, 40, "start", "class=\"title\"", chart.title);
  out += axes(chart, frame);
  // An inner drawing of the plot's size cuts off what lies outside; three units of room for a
  // line's width and dots.
  out += fmt::format(
      "<svg x=\"{0:.1f}\" y=\"{1:.1f}\" width=\"{2:.1f}\" height=\"{3:.1f}\" viewBox=\"{0:.1f} "
      "{1:.1f} "
      "{2:.1f} {3:.1f}\">\n",
      frame.left - 3, frame.top - 3, frame.right - frame.left + 6, frame.bottom - frame.top + 6);
  for (const ChartBand& shown : chart.bands) out += band(chart, frame, shown);
  for (const ChartMark& shown : chart.marks) out += mark(frame, shown);
  for (const ChartLine& shown : chart.lines) out += curve(chart, frame, shown);
  out += "</svg>\n";
  out += end_notes(chart, frame);
  if (chart.has_legend) out += legend(chart, frame);
  return out + "</svg>\n";
}

// A round step that gives three to eight ticks.
double round_step(double range) {
  const double power = std::pow(10.0, std::floor(std::log10(range)));
  for (const double factor : {0.1, 0.2, 0.5, 1.0}) {
    if (range / (factor * power) <= 7) return factor * power;
  }
  return power * 2;
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string short_number(double value) {
  if (!std::isfinite(value)) return "–";
  const double size = std::abs(value);
  for (const auto& [unit, name] : {std::pair(1e12, "T"), {1e9, "G"}, {1e6, "M"}, {1e3, "K"}}) {
    if (size >= unit * 0.99995 && size < 1e15) return fmt::format("{:.4g}{}", value / unit, name);
  }
  if (size == 0 || size >= 1e-3) return fmt::format("{:.4g}", value);
  const auto exponent = static_cast<int>(std::floor(std::log10(size * 1.00005)));
  // The least values have no power of ten of their own size.
  return fmt::format("{:.4g}e{}", value * 1e300 / std::pow(10.0, exponent + 300), exponent);
}

ChartAxis linear_axis(std::string title, double min, double max) {
  min = std::clamp(min, -kMostShown, kMostShown);
  max = std::clamp(max, -kMostShown, kMostShown);
  if (min > 0 && min < 0.2 * max) min = 0;
  if (max < 0 && max > 0.2 * min) max = 0;
  // Below this range double's own rounding would be all there is to see.
  const double least = std::max(1e-9 * std::max(std::abs(min), std::abs(max)), kLeastShown);
  if (max - min < least) {
    const double half = max == 0 ? 0.5 : std::max(0.05 * std::abs(max), least);
    min -= max == 0 ? 0 : half;
    max += half;
  }
  const double step = round_step(max - min);
  ChartAxis axis{std::move(title),
                 std::floor(min / step + 1e-9) * step,
                 std::ceil(max / step - 1e-9) * step,
                 false,
                 {}};
  const auto count = std::llround((axis.max - axis.min) / step);
  for (int64_t i = 0; i <= count; ++i) {
    const double at = axis.min + static_cast<double>(i) * step;
    axis.ticks.push_back({at, short_number(std::abs(at) < 1e-9 * step ? 0 : at)});
  }
  return axis;
}

ChartAxis log_axis(std::string title, double min, double max) {
  min = std::clamp(min, kLeastShown, kMostShown);
  max = std::clamp(max, kLeastShown, kMostShown);
  const int first = static_cast<int>(std::floor(std::log10(min) + 1e-9));
  const int last = static_cast<int>(std::ceil(std::log10(max) - 1e-9));
  const int every = std::max(1, (last - first + 5) / 6);
  ChartAxis axis{std::move(title), min * 0.9, max * 1.1, true, {}};
  for (int decade = first; decade <= last; ++decade) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const bool is_shown =
          last - first <= 2 ? true : factor == 1.0 && (decade - first) % every == 0;
      const double at = factor * std::pow(10.0, decade);
      if (is_shown && at >= axis.min && at <= axis.max)
        axis.ticks.push_back({at, short_number(at)});
    }
  }
  return axis;
}

ChartAxis axis_for(const std::vector<ChartLine>& lines, const std::vector<ChartBand>& bands,
                   double from_x, bool may_be_log) {
  double min = std::numeric_limits<double>::infinity(), max = -min;
  const auto add = [&](double x, double value) {
    if (x < from_x || !std::isfinite(value)) return;
    min = std::min(min, value);
    max = std::max(max, value);
  };
  for (const ChartLine& shown : lines) {
    for (const ChartPoint& point : shown.points) add(point.first, point.second);
  }
  for (const ChartBand& shown : bands) {
    for (size_t i = 0; i < shown.x.size(); ++i) {
      add(shown.x[i], shown.low[i]);
      add(shown.x[i], shown.high[i]);
    }
  }
  if (min > max) return linear_axis("", 0, 1);
  return may_be_log && min > 0 && max > 30 * min ? log_axis("", min, max)
                                                 : linear_axis("", min, max);
}

std::vector<ChartPoint> thin_points(const std::vector<ChartPoint>& points, size_t num_columns) {
  if (points.size() <= 2 * num_columns) return points;
  std::vector<ChartPoint> out;
  const double begin = points.front().first;
  const double range = points.back().first - begin;
  const double width = range > 0 ? range / static_cast<double>(num_columns) : 1;
  for (size_t i = 0; i < points.size();) {
    const auto column = static_cast<int64_t>((points[i].first - begin) / width);
    size_t least = i, most = i, end = i;
    bool has_gap = false;
    for (;
         end < points.size() && static_cast<int64_t>((points[end].first - begin) / width) == column;
         ++end) {
      if (!std::isfinite(points[end].second)) {
        has_gap = true;
        continue;
      }
      if (!(points[end].second >= points[least].second)) least = end;
      if (!(points[end].second <= points[most].second)) most = end;
    }
    if (std::isfinite(points[least].second)) {
      out.push_back(points[std::min(least, most)]);
      if (least != most) out.push_back(points[std::max(least, most)]);
    }
    if (has_gap) out.emplace_back(points[end - 1].first, std::nan(""));
    i = end;
  }
  return out;
}

std::string svg_chart(const SvgChart& chart) { return draw(chart, ""); }

std::string svg_file(const SvgChart& chart) {
  return draw(chart,
              "<style>text{font-family:Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#222}"
              ".title{font-size:18px;font-weight:600}.axis{font-size:14px}.tick{font-size:13px}"
              ".end{font-size:13px;font-weight:600}.grid{stroke:#e3e3e3}.axis-line{stroke:#222}"
              "</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
}

}  // namespace cachalot::apps
