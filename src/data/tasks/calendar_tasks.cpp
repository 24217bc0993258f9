#include <fmt/format.h>

#include <chrono>

#include "data/tasks/task_parts.h"

namespace cachalot::data {
namespace {
using std::chrono::sys_days;

std::string date_text(sys_days day) {
  const std::chrono::year_month_day date(day);
  return fmt::format("{:04}-{:02}-{:02}", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()));
}

std::string_view weekday_name(sys_days day) {
  static constexpr std::string_view kNames[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                "Thursday", "Friday", "Saturday"};
  return kNames[std::chrono::weekday(day).c_encoding()];
}
}  // namespace

// Spans double with each step: up to 8 days at 0, a century from 12 on. Gregorian calendar, 1900 to
// 2199.
Task make_calendar(int difficulty, Draw draw) {
  using namespace std::chrono;
  const int64_t longest = std::min<int64_t>(int64_t{8} << difficulty, 36500);
  const sys_days begin = sys_days(year(1900) / 1 / 1) + days(draw.between(0, 73000));
  const int64_t span = draw.between(1, longest);
  const sys_days end = begin + days(span);
  switch (draw.between(0, difficulty < 2 ? 0 : 2)) {
    case 0:
      return exact_answer_task(fmt::format("{} is a {}. Which day of the week is {} days later?",
                                           date_text(begin), weekday_name(begin), span),
                               fmt::format("{} mod 7 = {}\n", span, span % 7),
                               std::string(weekday_name(end)));
    case 1:
      return exact_answer_task(
          fmt::format("Which date is {} days after {}? Write it as YYYY-MM-DD.", span,
                      date_text(begin)),
          {}, date_text(end));
    default:
      return exact_answer_task(
          fmt::format("How many days are there from {} to {}?", date_text(begin), date_text(end)),
          {}, fmt::format("{}", span));
  }
}

}  // namespace cachalot::data
