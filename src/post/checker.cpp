#include "post/checker.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>
#include <limits>

#include "data/tasks/task.h"
#include "formats/json_fields.h"
#include "grammar/pushdown.h"
#include "grammar/regex.h"
#include "post/limited_program.h"

namespace cachalot::post {
namespace {

constexpr std::string_view kSpaces = " \t\r\n\v\f";
constexpr double kMaxNumber = 1e300;

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpaces);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpaces) - begin + 1);
}
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
std::string lowered(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), lower);
  return out;
}

std::optional<double> parse_decimal(std::string_view text) {
  std::string plain;
  for (const char c : text) {
    if (c != ',') plain += c;
  }
  if (plain.starts_with('+')) plain.erase(0, 1);
  if (plain.empty() || (!is_digit(plain[0]) && plain[0] != '-' && plain[0] != '.')) return {};
  double value = 0;
  const char* const end = plain.data() + plain.size();
  const auto [rest, error] = std::from_chars(plain.data(), end, value);
  if (error != std::errc() || rest != end || !(std::abs(value) <= kMaxNumber)) return {};
  return value;
}

// The last run of characters that is a number.
std::optional<std::string_view> last_number(std::string_view text) {
  size_t end = text.size();
  while (true) {
    while (end > 0 && !is_digit(text[end - 1])) --end;
    if (end == 0) return {};
    size_t begin = end;
    while (begin > 0 &&
           (is_digit(text[begin - 1]) ||
            std::string_view(".,/-+eE").find(text[begin - 1]) != std::string_view::npos))
      --begin;
    for (; begin < end; ++begin) {
      if (parse_number(text.substr(begin, end - begin))) return text.substr(begin, end - begin);
    }
  }
}

std::optional<std::string_view> boxed(std::string_view text) {
  constexpr std::string_view kBox = "\\boxed{";
  const size_t at = text.rfind(kBox);
  if (at == std::string_view::npos) return {};
  const std::string_view inside = text.substr(at + kBox.size());
  int64_t depth = 1;
  for (size_t i = 0; i < inside.size(); ++i) {
    depth += inside[i] == '{' ? 1 : inside[i] == '}' ? -1 : 0;
    if (depth == 0) return inside.substr(0, i);
  }
  return {};
}

Reward verdict(bool correct, std::string why) {
  return {correct ? 1.0 : 0.0, correct, correct ? std::string() : std::move(why)};
}

// Looks for the answer first.
class AnswerChecker : public Checker {
 public:
  explicit AnswerChecker(std::string from) : from_(std::move(from)) {}
  Result<Reward> check(std::string_view reply) override {
    const std::optional<std::string_view> answer = find_answer(reply, from_);
    if (!answer) return verdict(false, fmt::format("no answer ({})", from_));
    return check_answer(*answer);
  }
  virtual Result<Reward> check_answer(std::string_view answer) = 0;

 private:
  std::string from_;
};

class Exact : public AnswerChecker {
 public:
  Exact(std::string from, std::vector<std::string> answers, bool ignore_case)
      : AnswerChecker(std::move(from)), answers_(std::move(answers)), ignore_case_(ignore_case) {}
  Result<Reward> check_answer(std::string_view answer) override {
    const std::string_view given = trimmed(answer);
    const bool found = std::ranges::any_of(answers_, [&](std::string_view right) {
      right = trimmed(right);
      return ignore_case_ ? lowered(given) == lowered(right) : given == right;
    });
    return verdict(found, "another answer");
  }

 private:
  std::vector<std::string> answers_;
  bool ignore_case_;
};

class Number : public AnswerChecker {
 public:
  Number(std::string from, double answer, double tolerance)
      : AnswerChecker(std::move(from)), answer_(answer), tolerance_(tolerance) {}
  Result<Reward> check_answer(std::string_view answer) override {
    const std::optional<double> given = parse_number(trimmed(answer));
    if (!given) return verdict(false, "no number");
    const double room = tolerance_ * std::max(1.0, std::abs(answer_));
    return verdict(std::abs(*given - answer_) <= room, "another number");
  }

 private:
  double answer_, tolerance_;
};

class Pattern : public AnswerChecker {
 public:
  static Result<std::unique_ptr<Checker>> create(std::string from, const std::string& pattern,
                                                 bool whole) {
    grammar::GrammarSource source;
    const grammar::RuleId root = source.add_rule("root");
    CACHALOT_ASSIGN_OR_RETURN(const grammar::Regex regex,
                              grammar::parse_regex(pattern, source, {.matches_whole = whole}));
    source.set_body(root, regex.expression);
    CACHALOT_ASSIGN_OR_RETURN(grammar::Automaton automaton, grammar::Automaton::compile(source));
    return std::unique_ptr<Checker>(
        new Pattern(std::move(from), std::make_shared<grammar::Automaton>(std::move(automaton))));
  }
  Result<Reward> check_answer(std::string_view answer) override {
    grammar::Pushdown pushdown(automaton_);  // its memory grows with what it reads
    grammar::SetId set = pushdown.start();
    for (const char c : answer) {
      set = pushdown.step(set, static_cast<uint8_t>(c));
      if (pushdown.is_full()) return verdict(false, "too long for the pattern");
      if (set == grammar::Pushdown::kDead) return verdict(false, "no match");
    }
    return verdict(pushdown.may_end(set), "no match");
  }

 private:
  Pattern(std::string from, std::shared_ptr<const grammar::Automaton> automaton)
      : AnswerChecker(std::move(from)), automaton_(std::move(automaton)) {}
  std::shared_ptr<const grammar::Automaton> automaton_;
};

struct Rule {
  std::string name;
  int64_t count = 0;
  std::string text;

  bool holds(std::string_view answer) const {
    const std::string_view inside = trimmed(answer);
    const auto words = [&] {
      int64_t n = 0;
      bool in_word = false;
      for (const char c : inside) {
        const bool is_space = kSpaces.find(c) != std::string_view::npos;
        n += !is_space && !in_word;
        in_word = !is_space;
      }
      return n;
    };
    const auto lines = [&] {
      return inside.empty() ? 0 : 1 + std::count(inside.begin(), inside.end(), '\n');
    };
    const auto characters = [&] {
      return std::ranges::count_if(inside, [](char c) { return (c & 0xC0) != 0x80; });
    };
    if (name == "min_words") return words() >= count;
    if (name == "max_words") return words() <= count;
    if (name == "min_lines") return lines() >= count;
    if (name == "max_lines") return lines() <= count;
    if (name == "max_characters") return characters() <= count;
    if (name == "contains") return inside.find(text) != std::string_view::npos;
    if (name == "excludes") return inside.find(text) == std::string_view::npos;
    if (name == "starts_with") return inside.starts_with(text);
    if (name == "ends_with") return inside.ends_with(text);
    if (name == "lower_case")
      return std::ranges::none_of(inside, [](char c) { return c >= 'A' && c <= 'Z'; });
    if (name == "upper_case")
      return std::ranges::none_of(inside, [](char c) { return c >= 'a' && c <= 'z'; });
    return parse_json(inside, "answer").has_value();  // json
  }
};

constexpr std::string_view kCountRules[] = {"min_words", "max_words", "min_lines", "max_lines",
                                            "max_characters"};
constexpr std::string_view kTextRules[] = {"contains", "excludes", "starts_with", "ends_with"};
constexpr std::string_view kFlagRules[] = {"lower_case", "upper_case", "json"};

Result<Rule> read_rule(const json::value& value, std::string_view origin) {
  const json::object* object = value.if_object();
  if (object == nullptr || object->size() != 1) {
    return invalid_argument(fmt::format("{}: rules: expected objects of one key, found {}", origin,
                                        formats::json_excerpt(value)));
  }
  const json::value& given = object->begin()->value();
  Rule rule;
  rule.name = std::string(object->begin()->key());
  const auto is_one_of = [&](const auto& names) {
    return std::ranges::find(names, std::string_view(rule.name)) != std::end(names);
  };
  if (is_one_of(kCountRules) && given.is_int64() && given.get_int64() >= 0) {
    rule.count = given.get_int64();
    return rule;
  }
  if (is_one_of(kTextRules) && given.is_string() && !given.get_string().empty()) {
    rule.text = std::string(given.get_string());
    return rule;
  }
  if (is_one_of(kFlagRules) && given.is_bool() && given.get_bool()) return rule;
  return invalid_argument(fmt::format(
      "{}: rules: expected one of {} with a number, {} with a text, or {} with true, found {}",
      origin, fmt::join(kCountRules, ", "), fmt::join(kTextRules, ", "),
      fmt::join(kFlagRules, ", "), formats::json_excerpt(value)));
}

class Rules : public AnswerChecker {
 public:
  Rules(std::string from, std::vector<Rule> rules)
      : AnswerChecker(std::move(from)), rules_(std::move(rules)) {}
  Result<Reward> check_answer(std::string_view answer) override {
    Reward reward;
    int64_t held = 0;
    for (const Rule& rule : rules_) {
      if (rule.holds(answer)) {
        ++held;
      } else {
        reward.why += reward.why.empty() ? rule.name : ", " + rule.name;
      }
    }
    reward.value = static_cast<double>(held) / static_cast<double>(rules_.size());
    reward.correct = reward.why.empty();
    return reward;
  }

 private:
  std::vector<Rule> rules_;
};

class ProgramChecker : public AnswerChecker {
 public:
  ProgramChecker(std::string from, std::vector<std::string> command, ProgramLimits limits,
                 json::value task)
      : AnswerChecker(std::move(from)),
        command_(std::move(command)),
        limits_(limits),
        task_(std::move(task)) {}
  Result<Reward> check_answer(std::string_view answer) override {
    // JSON holds UTF-8 alone; what is none is shown as U+FFFD by the decoder of tokens already.
    const std::string input =
        boost::json::serialize(json::object{{"task", task_}, {"answer", answer}}) + "\n";
    CACHALOT_ASSIGN_OR_RETURN(const ProgramRun run, run_limited(command_, input, limits_));
    const std::string how = program_end_text(run, limits_);
    if (run.end != ProgramRun::End::exited) return verdict(false, how);
    const std::string_view said = trimmed(run.output);
    const std::optional<double> number = parse_number(trimmed(said.substr(said.rfind('\n') + 1)));
    if (!number) return verdict(run.code == 0, how);
    if (run.code != 0) return verdict(false, how);
    return Reward{*number, *number >= 1, {}};
  }

 private:
  std::vector<std::string> command_;
  ProgramLimits limits_;
  json::value task_;
};

}  // namespace

std::optional<double> parse_number(std::string_view text) {
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return parse_decimal(text);
  const std::optional<double> above = parse_decimal(text.substr(0, slash));
  const std::optional<double> below = parse_decimal(text.substr(slash + 1));
  if (!above || !below || *below == 0) return {};
  return *above / *below;
}

std::optional<std::string_view> find_answer(std::string_view reply, std::string_view from) {
  if (from == "line") return data::answer_line(reply);
  if (from == "last_number") return last_number(reply);
  if (from == "boxed") return boxed(reply);
  return reply;
}

Result<std::unique_ptr<Checker>> make_checker(const json::object& spec, const json::value& task,
                                              std::string_view origin) {
  formats::JsonFields fields(spec, origin, "check.");
  std::string kind, from;
  if (fields.find("kind") == nullptr) fields.fail("kind", "a checker's name", "none");
  fields.choice("kind", &kind, {"exact", "number", "regex", "rules", "program"});
  from = kind == "exact" || kind == "number" ? "line" : "all";
  fields.choice("from", &from, {"line", "last_number", "boxed", "all"});
  const auto missing = [&](std::string_view key, std::string_view expected) {
    const json::value* value = fields.find(key);
    fields.fail(key, expected, value == nullptr ? "none" : formats::json_excerpt(*value));
    return fields.status();
  };
  if (kind == "exact") {
    std::vector<std::string> answers;
    bool ignore_case = false;
    fields.texts("answer", &answers, 1000);
    fields.boolean("ignore_case", &ignore_case);
    if (fields.status().ok() && answers.empty()) return missing("answer", "a text or several");
    CACHALOT_RETURN_IF_ERROR(fields.status());
    return std::unique_ptr<Checker>(std::make_unique<Exact>(from, std::move(answers), ignore_case));
  }
  if (kind == "number") {
    double tolerance = 0;
    fields.real("tolerance", &tolerance, 0, 1e6);
    const json::value* value = fields.find("answer");
    std::optional<double> answer;
    if (value != nullptr && value->is_number()) answer = value->to_number<double>();
    if (value != nullptr && value->is_string()) answer = parse_number(value->get_string());
    if (!answer) return missing("answer", "a number");
    CACHALOT_RETURN_IF_ERROR(fields.status());
    return std::unique_ptr<Checker>(std::make_unique<Number>(from, *answer, tolerance));
  }
  if (kind == "regex") {
    std::string pattern;
    bool whole = true;
    fields.text("pattern", &pattern);
    fields.boolean("whole", &whole);
    if (fields.find("pattern") == nullptr) return missing("pattern", "a regular expression");
    CACHALOT_RETURN_IF_ERROR(fields.status());
    Result<std::unique_ptr<Checker>> made = Pattern::create(from, pattern, whole);
    if (made) return made;
    return Status(made.error().code(),
                  fmt::format("{}: check.pattern: {}", origin, made.error().message()));
  }
  if (kind == "rules") {
    const json::value* list = fields.find("rules");
    if (list == nullptr || !list->is_array() || list->get_array().empty())
      return missing("rules", "an array of rules");
    CACHALOT_RETURN_IF_ERROR(fields.status());
    std::vector<Rule> rules;
    for (const json::value& value : list->get_array()) {
      CACHALOT_ASSIGN_OR_RETURN(rules.emplace_back(), read_rule(value, origin));
    }
    return std::unique_ptr<Checker>(std::make_unique<Rules>(from, std::move(rules)));
  }
  ProgramLimits limits;
  std::vector<std::string> command;
  fields.texts("command", &command, 1000);
  fields.real("seconds", &limits.seconds, 0.001, 1e6);
  fields.integer("memory_bytes", &limits.memory_bytes, 1 << 20, int64_t{1} << 50);
  fields.integer("output_bytes", &limits.output_bytes, 1, int64_t{1} << 30);
  if (fields.status().ok() && (command.empty() || command[0].empty()))
    return missing("command", "a program and its arguments");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  return std::unique_ptr<Checker>(
      std::make_unique<ProgramChecker>(from, std::move(command), limits, task));
}

}  // namespace cachalot::post
