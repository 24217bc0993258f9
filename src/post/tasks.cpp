#include "post/tasks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/file.h"
#include "data/keyed_permutation.h"
#include "data/tasks/task_document.h"
#include "formats/json_fields.h"

namespace cachalot::post {
namespace {

constexpr size_t kMaxTold = 5;

// An answer to judge, with the scores that people gave it.
Status read_judging(const json::object& judge, const json::object& check, const std::string& origin,
                    RlTask& task) {
  CACHALOT_ASSIGN_OR_RETURN(const Rubric rubric, read_rubric(judge, origin + ": judge"));
  formats::JsonFields fields(judge, origin, "judge.");
  std::string asked, answer, kind;
  fields.text("task", &asked);
  fields.text("answer", &answer);
  formats::JsonFields of_check(check, origin, "check.");
  std::vector<int64_t> scores;
  of_check.choice("kind", &kind, {"verdict"});
  of_check.integers("scores", &scores, 0, rubric.most, rubric.items.size());
  if (of_check.status().ok() && scores.size() != rubric.items.size()) {
    of_check.fail("scores", fmt::format("{} scores", rubric.items.size()),
                  fmt::format("{}", scores.size()));
  }
  fields.add_errors(of_check);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  task.prompt = judge_prompt(rubric, asked, answer);
  task.request.messages.emplace_back().content = task.prompt;
  task.schema = verdict_schema(rubric);
  task.check = [rubric, scores](const data::Reply& reply) -> Result<Reward> {
    const std::optional<std::vector<int64_t>> verdict = parse_verdict(rubric, reply.content);
    if (!verdict) return Reward{0, false, std::string(kNoVerdict)};
    return Reward{agreement(rubric, *verdict, scores), *verdict == scores, {}};
  };
  return {};
}

Result<RlTask> read_row(std::string_view line, const std::string& origin) {
  CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(line, origin));
  const json::object* row = value.if_object();
  if (row == nullptr)
    return invalid_argument(
        fmt::format("{}: expected an object, found {}", origin, json_kind_name(value)));
  formats::JsonFields fields(*row, origin);
  RlTask task;
  task.id = origin;
  fields.text("id", &task.id);
  fields.text("prompt", &task.prompt);
  const json::value* messages = fields.find("messages");
  const json::object* check = fields.object("check");
  if (const json::object* judge = fields.object("judge")) {
    if (check == nullptr) fields.fail("check", "annotated scores", "none");
    CACHALOT_RETURN_IF_ERROR(fields.status());
    CACHALOT_RETURN_IF_ERROR(read_judging(*judge, *check, origin, task));
    return task;
  }
  if ((messages == nullptr) == (fields.find("prompt") == nullptr))
    fields.fail("prompt", "a text, or messages", messages == nullptr ? "neither" : "both");
  if (check == nullptr && fields.status().ok()) fields.fail("check", "a checker", "none");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  if (messages != nullptr) {
    CACHALOT_ASSIGN_OR_RETURN(task.request, text::parse_chat_request(value));
  } else {
    task.request.messages.emplace_back().content = task.prompt;
  }
  json::object shown = *row;
  shown.erase("check");
  const json::value* kind = check->if_contains("kind");
  if (kind != nullptr && *kind == "rubric") {
    CACHALOT_ASSIGN_OR_RETURN(task.rubric, read_rubric(*check, origin + ": check"));
    formats::JsonFields of_check(*check, origin, "check.");
    check = of_check.object("audit");
    CACHALOT_RETURN_IF_ERROR(of_check.status());
    if (check == nullptr) return task;
  }
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<Checker> made, make_checker(*check, shown, origin));
  task.check = [checker = std::shared_ptr<Checker>(std::move(made))](const data::Reply& reply) {
    return checker->check(reply.content);
  };
  return task;
}

RlTask generated_task(const TaskEntry& entry, uint64_t seed, int64_t draw) {
  const data::TaskFamily family = *data::parse_task_family(entry.family);
  data::Task made = data::make_task(family, static_cast<int>(entry.difficulty), seed,
                                    static_cast<uint64_t>(draw));
  RlTask task;
  task.id = fmt::format("{}/{}/{}", entry.family, entry.difficulty, draw);
  task.prompt = made.prompt;
  task.request = data::task_request(made);
  task.check = [check = std::move(made.check)](const data::Reply& reply) -> Result<Reward> {
    data::Verdict verdict = check(reply);
    return Reward{verdict.correct ? 1.0 : 0.0, verdict.correct, std::move(verdict.why)};
  };
  task.environment = std::move(made.environment);
  return task;
}

}  // namespace

double LengthPenalty::of(int64_t num_tokens) const {
  return std::min(most, factor * static_cast<double>(num_tokens) / per_tokens);
}

Result<TaskSource> TaskSource::open(TaskEntry entry, uint64_t seed) {
  TaskSource source(std::move(entry), seed);
  const TaskEntry& e = source.entry_;
  if (e.path.empty() == e.family.empty()) {
    return invalid_argument(fmt::format("tasks \"{}\": expected a path or a family, found {}",
                                        e.name, e.path.empty() ? "neither" : "both"));
  }
  if (!e.path.empty()) {
    CACHALOT_RETURN_IF_ERROR(source.read_rows());
    return source;
  }
  if (!data::parse_task_family(e.family)) {
    std::vector<std::string_view> names;
    for (const data::TaskFamily family : data::task_families())
      names.push_back(data::task_family_name(family));
    return invalid_argument(fmt::format("tasks \"{}\": family: expected one of {}, found \"{}\"",
                                        e.name, fmt::join(names, ", "), e.family));
  }
  if (e.difficulty < 0 || e.difficulty > data::kMaxDifficulty) {
    return invalid_argument(fmt::format("tasks \"{}\": difficulty: expected 0 to {}, found {}",
                                        e.name, data::kMaxDifficulty, e.difficulty));
  }
  return source;
}

Status TaskSource::read_rows() {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(entry_.path));
  std::string_view rest = without_byte_order_mark(text);
  for (int64_t line = 1; !rest.empty(); ++line) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view row = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Result<RlTask> task = read_row(row, fmt::format("{}:{}", entry_.path, line));
    if (task) {
      rows_.push_back(*std::move(task));
    } else if (++bad_rows_.count <= static_cast<int64_t>(kMaxTold)) {
      bad_rows_.first.push_back(task.error().message());
    }
  }
  if (!rows_.empty()) return {};
  return invalid_argument(fmt::format(
      "{}: expected a task in a row, found none{}{}", entry_.path,
      bad_rows_.count == 0 ? "" : "; the first: ", bad_rows_.count == 0 ? "" : bad_rows_.first[0]));
}

bool TaskSource::has_rubrics() const {
  return std::ranges::any_of(rows_, [](const RlTask& task) { return task.rubric.has_value(); });
}

RlTask TaskSource::task(int64_t draw) const {
  if (rows_.empty()) return generated_task(entry_, seed_, draw);
  const auto n = static_cast<int64_t>(rows_.size());
  const data::KeyedPermutation order(
      n, RngStream(seed_, RngPurpose::data, static_cast<uint64_t>(draw / n)));
  return rows_[order.at(draw % n)];
}

std::vector<TaskPlace> task_places(std::span<const TaskSource> sources, int64_t first,
                                   int64_t count) {
  double total = 0;
  for (const TaskSource& source : sources) total += source.entry().weight;
  std::vector<int64_t> draws(sources.size());
  std::vector<TaskPlace> places;
  for (int64_t i = 0; i < first + count; ++i) {
    size_t next = 0;
    double furthest = -1;
    for (size_t s = 0; s < sources.size(); ++s) {
      const double behind = sources[s].entry().weight / total * static_cast<double>(i + 1) -
                            static_cast<double>(draws[s]);
      if (behind > furthest) {
        furthest = behind;
        next = s;
      }
    }
    if (i >= first) places.push_back({next, draws[next]});
    ++draws[next];
  }
  return places;
}

}  // namespace cachalot::post
