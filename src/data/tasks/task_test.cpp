#include "data/tasks/task.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <set>

#include "base/json.h"
#include "base/python_json.h"
#include "data/hex64.h"
#include "data/streams.h"
#include "data/tasks/expression.h"
#include "data/tasks/small_program.h"
#include "data/tasks/task_document.h"

namespace cachalot::data {
namespace {
constexpr uint64_t kSeed = 11;

// Long texts are made for few difficulties only.
int hardest(TaskFamily family) { return family == TaskFamily::needles ? 7 : kMaxDifficulty; }

template <typename Fn>
void for_each_task(Fn&& fn) {
  for (const TaskFamily family : task_families()) {
    for (int difficulty = 0; difficulty <= hardest(family); ++difficulty) {
      for (uint64_t index = 0; index < 20; ++index) {
        const Task task = make_task(family, difficulty, kSeed, index);
        SCOPED_TRACE(std::string(task_family_name(family)) + " " + std::to_string(difficulty) +
                     "." + std::to_string(index) + ": " + task.prompt.substr(0, 600));
        fn(task, index);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

Reply with_content(const Task& task, std::string content) {
  Reply reply = task.answer;
  reply.content = std::move(content);
  return reply;
}

TEST(Tasks, ReferenceAnswersAreAccepted) {
  for_each_task([](const Task& task, uint64_t) {
    const Verdict verdict = task.check(task.answer);
    ASSERT_TRUE(verdict.correct) << verdict.why << "\n" << task.answer.content;
    ASSERT_TRUE(verdict.why.empty());
    ASSERT_FALSE(task.prompt.empty());
  });
}

// Whose answer is the whole reply.
bool is_free(const Task& task) {
  return task.family == TaskFamily::constraints || task.family == TaskFamily::programs ||
         task.family == TaskFamily::quick;
}

// Words before it do not hurt an answer line.
TEST(Tasks, ReasoningBeforeAnAnswerLineIsAllowed) {
  for_each_task([](const Task& task, uint64_t) {
    if (is_free(task)) return;
    ASSERT_TRUE(
        task.check(with_content(task, "Let me see.\nAnswer: no\n" + task.answer.content)).correct);
  });
}

TEST(Tasks, PerturbedAnswersAreRejected) {
  for_each_task([](const Task& task, uint64_t) {
    std::vector<std::string> wrong = {"", "Answer:", "Answer: ", "answer unknown",
                                      std::string("\0", 1)};
    const std::string& right = task.answer.content;
    if (is_free(task)) {
      wrong = {"", "a", "Answer: x"};
    } else {
      ASSERT_TRUE(right.starts_with("Answer: "));
      wrong.push_back(right.substr(8));
      wrong.push_back("The " + right);
      wrong.push_back(right + "\nAnswer: #");
      wrong.push_back(right + "0");
      if (task.family != TaskFamily::countdown) {
        // Any other byte in the answer itself; blanks around it are not part of it.
        for (size_t i = 8; i < right.size(); ++i) {
          std::string other = right;
          other[i] = other[i] == '7' ? '8' : '7';
          wrong.push_back(other);
          other = right;
          other.erase(i, 1);
          if (other.back() != ' ') wrong.push_back(other);
        }
      }
    }
    for (const std::string& content : wrong) {
      const Verdict verdict = task.check(with_content(task, content));
      ASSERT_FALSE(verdict.correct) << content;
      ASSERT_FALSE(verdict.why.empty());
    }
  });
}

TEST(Tasks, ArePureFunctionsOfTheirKey) {
  for (const TaskFamily family : task_families()) {
    std::set<std::string> prompts;
    for (uint64_t index = 0; index < 30; ++index) {
      const Task a = make_task(family, 5, kSeed, index), b = make_task(family, 5, kSeed, index);
      ASSERT_EQ(a.prompt, b.prompt);
      ASSERT_EQ(a.reasoning, b.reasoning);
      ASSERT_EQ(a.answer.content, b.answer.content);
      ASSERT_EQ(a.difficulty, 5);
      prompts.insert(a.prompt);
    }
    EXPECT_GE(prompts.size(), 28u) << task_family_name(family);
    EXPECT_NE(make_task(family, 5, kSeed + 1, 0).prompt, make_task(family, 5, kSeed, 0).prompt);
    EXPECT_EQ(parse_task_family(task_family_name(family)), family);
  }
  EXPECT_FALSE(parse_task_family("chess").has_value());
}

// Results on a fixed set of tasks can be compared between versions: the tasks never change.
TEST(Tasks, ArePinned) {
  const auto hash_of = [](std::span<const TaskFamily> families) {
    std::string all;
    for (const TaskFamily family : families) {
      for (int difficulty = 0; difficulty <= 6; ++difficulty) {
        for (uint64_t index = 0; index < 10; ++index) {
          const Task task = make_task(family, difficulty, kSeed, index);
          all += task.prompt + task.reasoning + task.answer.content;
        }
      }
    }
    return to_hex64(XXH3_64bits(all.data(), all.size()));
  };
  EXPECT_EQ(hash_of(task_families().first(10)), "aca9a2a297b5d956");
  const std::pair<TaskFamily, const char*> later[] = {
      {TaskFamily::algebra, "40a6444fc18725f1"},  {TaskFamily::fractions, "90703756a13c84f4"},
      {TaskFamily::units, "697f32ebea7f1d56"},    {TaskFamily::logic_grid, "41b83028273d1b38"},
      {TaskFamily::programs, "2f48317702976b8a"}, {TaskFamily::friends, "7e6424bc0b2a21f0"},
      {TaskFamily::quick, "dba8234588cafd8e"},    {TaskFamily::sums, "0ff86e2043e20096"},
      {TaskFamily::repeats, "2663c2fbd9e68925"}};
  for (const auto& [family, hash] : later)
    EXPECT_EQ(hash_of(std::span(&family, 1)), hash) << task_family_name(family);
}

TEST(Tasks, DifficultyIsFelt) {
  for (const TaskFamily family : task_families()) {
    if (family == TaskFamily::calendar) continue;  // its spans grow, not its texts
    size_t easy = 0, hard = 0;
    for (uint64_t index = 0; index < 50; ++index) {
      const auto size = [&](int difficulty) {
        const Task task = make_task(family, difficulty, kSeed, index);
        return task.prompt.size() + task.reasoning.size() + 40 * task.answer.tool_calls.size();
      };
      easy += size(0);
      hard += size(hardest(family));
    }
    EXPECT_GT(hard, easy + easy / 5) << task_family_name(family);
  }
}

// Each line of arithmetic is true: the reasoning may be learnt from.
TEST(Tasks, ReasoningIsTrue) {
  int64_t num_lines = 0;
  for_each_task([&](const Task& task, uint64_t) {
    if (task.family != TaskFamily::arithmetic && task.family != TaskFamily::countdown &&
        task.family != TaskFamily::units && task.family != TaskFamily::sums)
      return;
    std::string_view rest = task.reasoning;
    std::string last;
    while (!rest.empty()) {
      const std::string line(rest.substr(0, rest.find('\n')));
      rest.remove_prefix(line.size() + 1);
      const size_t equals = line.rfind(" = ");
      ASSERT_NE(equals, std::string::npos);
      last = line.substr(equals + 3);
      // A running total may be negative, which the expression language writes as 0 - n.
      const std::string left =
          line[0] == '-' ? "0 " + line.substr(0, equals) : line.substr(0, equals);
      const auto value = evaluate_expression(left);
      ASSERT_TRUE(value.has_value()) << line;
      ASSERT_EQ(std::to_string(value->value), last) << line;
      ++num_lines;
    }
    if (task.family != TaskFamily::countdown) {
      ASSERT_EQ("Answer: " + last, task.answer.content);
    }
  });
  EXPECT_GT(num_lines, 1000);
}

// The prompt's own expression, evaluated by the other program.
TEST(Tasks, ArithmeticAgreesWithTheExpressionEvaluator) {
  for (int difficulty = 0; difficulty <= kMaxDifficulty; ++difficulty) {
    for (uint64_t index = 0; index < 50; ++index) {
      const Task task = make_task(TaskFamily::arithmetic, difficulty, kSeed, index);
      const std::string text = task.prompt.substr(8, task.prompt.find('.') - 8);
      ASSERT_EQ("Answer: " + std::to_string(evaluate_expression(text)->value), task.answer.content);
    }
  }
}

TEST(Tasks, SumsAgreeWithTheExpressionEvaluatorAndNeverFallBelowNothing) {
  for (int difficulty = 0; difficulty <= kMaxDifficulty; ++difficulty) {
    for (uint64_t index = 0; index < 50; ++index) {
      const Task task = make_task(TaskFamily::sums, difficulty, kSeed, index);
      const auto found = evaluate_expression(task.prompt.substr(8, task.prompt.find('?') - 8));
      ASSERT_EQ("Answer: " + std::to_string(found->value), task.answer.content);
      ASSERT_EQ(std::ssize(found->numbers), 3 + difficulty);
      ASSERT_EQ(task.reasoning.find("= -"), std::string::npos);
    }
  }
}

TEST(Tasks, RepeatsAreTheItemsWithoutTheirQuotes) {
  for (uint64_t index = 0; index < 100; ++index) {
    const Task task = make_task(TaskFamily::repeats, 4, kSeed, index);
    const size_t begin = task.prompt.find(": ") + 2;
    std::string items = task.prompt.substr(begin, task.prompt.find('\n') - begin);
    std::erase(items, '"');
    ASSERT_EQ(std::ranges::count(items, ' '), 5);
    std::string said = task.answer.content.substr(8);
    std::erase(said, ',');
    ASSERT_EQ(said, items);
  }
}

TEST(Expression, IsEvaluatedAsWritten) {
  const auto value = [](std::string_view text) { return evaluate_expression(text)->value; };
  EXPECT_EQ(value("2 + 3 * 4"), 14);
  EXPECT_EQ(value("(2+3)*4"), 20);
  EXPECT_EQ(value("20 - 5 - 3"), 12);
  EXPECT_EQ(value("24/4/2"), 3);
  EXPECT_EQ(value(" ( ( 7 ) ) "), 7);
  EXPECT_EQ(evaluate_expression("3 + 3 * 12")->numbers, (std::vector<int64_t>{3, 3, 12}));
  for (const std::string bad :
       {"", "1 +", "+ 1", "(1", "1)", "1 2", "7 / 2", "1 / 0", "1 / (2 - 2)", "x", "2 ** 3", "1e3",
        "1.5", "99999999999999999999", "9999999999 * 9999999999", "-1"}) {
    EXPECT_FALSE(evaluate_expression(bad).has_value()) << bad;
  }
  EXPECT_FALSE(
      evaluate_expression(std::string(300, '(') + "1" + std::string(300, ')')).has_value());
  EXPECT_FALSE(evaluate_expression(std::string_view("1\0+1", 4)).has_value());
  std::string deep = std::string(199, '(') + "1" + std::string(199, ')');
  EXPECT_EQ(value(deep), 1);
}

TEST(Countdown, TakesAnyWayButOnlyTheGivenNumbers) {
  for (uint64_t index = 0; index < 200; ++index) {
    const Task task = make_task(TaskFamily::countdown, 3, kSeed, index);
    const std::string right = task.answer.content.substr(8);
    EXPECT_TRUE(task.check({"Answer: (" + right + ")", {}}).correct);
    // The target itself, one off, and a number used once more than given.
    const int64_t target = evaluate_expression(right)->value;
    const auto numbers = evaluate_expression(right)->numbers;
    const std::string first = std::to_string(numbers[0]);
    EXPECT_FALSE(task.check({"Answer: " + right + " + 100000 - 100000", {}}).correct);
    EXPECT_FALSE(task.check({"Answer: " + right + " + 0", {}}).correct);
    EXPECT_FALSE(task.check({"Answer: " + right + " = " + std::to_string(target), {}}).correct);
    const auto given = std::count(numbers.begin(), numbers.end(), numbers[0]);
    std::string repeated = "Answer: " + right;
    for (int64_t k = 0; k <= 3 - given; ++k) repeated += " + " + first + " - " + first;
    EXPECT_FALSE(task.check({repeated, {}}).correct);
  }
}

// Each rule, broken alone in the reference, is noticed.
TEST(Constraints, EachBrokenRuleIsNoticed) {
  std::set<std::string> seen;
  for (uint64_t index = 0; index < 400; ++index) {
    const Task task = make_task(TaskFamily::constraints, 2, kSeed, index);
    const std::string rule = task.prompt.substr(task.prompt.find('\n') + 1);
    const std::string& right = task.answer.content;
    const auto quoted = [&] {
      const size_t begin = rule.find('"') + 1;
      return rule.substr(begin, rule.find('"', begin) - begin);
    };
    std::string wrong;
    if (rule.starts_with("Use exactly")) {
      seen.insert("words"), wrong = right + " more";
    } else if (rule.starts_with("Use the word")) {
      seen.insert("keyword"), wrong = right + " " + quoted();
    } else if (rule.starts_with("Do not use the word")) {
      seen.insert("forbidden"), wrong = right + " \"" + quoted() + "\"!";
    } else if (rule == "Write all letters in upper case.") {
      seen.insert("upper"), wrong = right + "x";
    } else if (rule == "Write all letters in lower case.") {
      seen.insert("lower"), wrong = right + "X";
    } else if (rule.starts_with("The first")) {
      seen.insert("first"), wrong = "See " + right;
    } else if (rule.starts_with("The last")) {
      seen.insert("last"), wrong = right + " see";
    } else if (rule.starts_with("Do not use commas")) {
      seen.insert("commas"), wrong = right + ",";
    } else if (rule.find("lines") != std::string::npos) {
      seen.insert("bullets"), wrong = right + "\n- one more";
      EXPECT_FALSE(task.check({right + "\nno bullet", {}}).correct);
    } else if (rule.find("sentence") != std::string::npos) {
      seen.insert("sentences"), wrong = right + " One more.";
      EXPECT_TRUE(task.check({right + "..", {}}).correct);  // still one end
    }
    ASSERT_FALSE(wrong.empty()) << rule;
    const Verdict verdict = task.check({wrong, {}});
    EXPECT_FALSE(verdict.correct) << rule << "\n" << wrong;
    EXPECT_EQ(verdict.why, rule);
  }
  EXPECT_EQ(seen.size(), 10u);
}

TEST(Constraints, JsonObjectsAreComparedWhole) {
  int num_objects = 0;
  for (uint64_t index = 0; index < 60; ++index) {
    const Task task = make_task(TaskFamily::constraints, 6, kSeed, index);
    if (!task.prompt.starts_with("Reply with a JSON")) continue;
    ++num_objects;
    const json::object right = parse_json(task.answer.content, "x")->get_object();
    const std::string text = task.answer.content;
    EXPECT_TRUE(task.check({" " + text + "\n", {}}).correct);
    EXPECT_FALSE(task.check({"Here: " + text, {}}).correct);
    EXPECT_FALSE(task.check({"[" + text + "]", {}}).correct);
    EXPECT_FALSE(task.check({"{}", {}}).correct);
    EXPECT_FALSE(task.check({text.substr(0, text.size() - 1) + ", \"more\": 1}", {}}).correct);
    // Two keys change places.
    const size_t comma = text.find(", ");
    ASSERT_NE(comma, std::string::npos);
    const size_t second = text.find(", ", comma + 2);
    const std::string swapped = "{" + text.substr(comma + 2, second - comma - 2) + ", " +
                                text.substr(1, comma - 1) + text.substr(second);
    EXPECT_TRUE(parse_json(swapped, "x").has_value());
    EXPECT_FALSE(task.check({swapped, {}}).correct);
  }
  EXPECT_GT(num_objects, 5);
}

// An episode played against the environment gives the results that the reference calls rely on;
// leaving out, repeating or changing a transfer is noticed; looking more often is not held against
// the policy.
TEST(Tools, StateIsWhatCounts) {
  int num_transfers = 0, num_noticed = 0, num_without = 0;
  for (uint64_t index = 0; index < 300; ++index) {
    const Task task = make_task(TaskFamily::tools, 6, kSeed, index);
    ASSERT_TRUE(task.environment != nullptr);
    ASSERT_EQ(task.tools.size(), 3u);
    const text::ToolCall weather = {
        .id = "x", .name = "get_weather", .name_space = "", .arguments = "{\"city\": \"a\"}"};
    if (task.answer.tool_calls.empty()) {
      ++num_without;
      EXPECT_FALSE(task.check({task.answer.content, {weather}}).correct);
      continue;
    }
    EXPECT_FALSE(task.check({task.answer.content, {}}).correct);
    const auto world = task.environment();
    std::string last;
    for (const text::ToolCall& call : task.answer.tool_calls) {
      last = world->call(call);
      EXPECT_EQ(last.find("error"), std::string::npos) << last;
    }
    EXPECT_EQ(last, "{\"balance\": " + task.answer.content.substr(8) + "}");
    for (size_t i = 0; i < task.answer.tool_calls.size(); ++i) {
      Reply without = task.answer, twice = task.answer;
      const text::ToolCall call = task.answer.tool_calls[i];
      without.tool_calls.erase(without.tool_calls.begin() + static_cast<std::ptrdiff_t>(i));
      twice.tool_calls.insert(twice.tool_calls.begin() + static_cast<std::ptrdiff_t>(i), call);
      if (call.name == "transfer") {
        ++num_transfers;
        num_noticed += !task.check(without).correct;
      } else {
        EXPECT_TRUE(task.check(twice).correct);
      }
    }
    Reply many = task.answer;
    many.tool_calls.insert(many.tool_calls.end(), 200, weather);
    EXPECT_FALSE(task.check(many).correct);
  }
  EXPECT_GT(num_transfers, 300);
  // Transfers may cancel each other; then the end is reached without them too.
  EXPECT_GT(num_noticed, num_transfers * 95 / 100);
  EXPECT_GT(num_without, 15);
}

// Programs are run, and what they give counts, not how they are written.
TEST(Programs, AreJudgedByWhatTheyGive) {
  int num_noticed = 0;
  for (uint64_t index = 0; index < 100; ++index) {
    const Task task = make_task(TaskFamily::programs, 6, kSeed, index);
    const std::string& right = task.answer.content;
    EXPECT_TRUE(task.check({"Here it is:\n" + right + "\n\nThat is all.", {}}).correct);
    EXPECT_TRUE(
        task.check({right.substr(0, right.rfind('\n')) + "\n    return 1 * (x)", {}}).correct);
    EXPECT_FALSE(task.check({right + " + 1", {}}).correct);
    // The first step left out: seldom does it change nothing.
    const size_t first = right.find('\n', right.find("x = a")) + 1;
    const size_t second = right.find("\n    x", first);
    num_noticed += !task.check({right.substr(0, first) + right.substr(second + 1), {}}).correct;
  }
  EXPECT_GT(num_noticed, 80);
}

TEST(SmallProgram, RunsAsPythonDoes) {
  const auto value = [](const std::string& body, std::vector<int64_t> arguments) {
    const auto program = SmallProgram::parse("def f(a, b):\n" + body);
    if (!program) return program.error().message();
    const auto result = program->run(arguments);
    return result ? std::to_string(*result) : result.error().message();
  };
  EXPECT_EQ(value("    return a - b - 1", {7, 2}), "4");
  EXPECT_EQ(value("    return -a * (b + 1)", {7, 2}), "-21");
  EXPECT_EQ(value("    return a // b", {-7, 2}), "-4");
  EXPECT_EQ(value("    return a % b", {-7, 2}), "1");
  EXPECT_EQ(value("    return a % b", {7, -2}), "-1");
  EXPECT_EQ(value("    return a // b * b + a % b == a", {7, -2}), "1");
  const std::string larger = "    if a > b:\n        x = a\n    else:\n        x = b\n    return x";
  EXPECT_EQ(value(larger, {3, 9}), "9");
  EXPECT_EQ(value(larger, {9, 3}), "9");
  const std::string power =
      "    x = 1\n    while b > 0:\n        x = x * a\n        b = b - 1\n    return x";
  EXPECT_EQ(value(power, {3, 4}), "81");
  EXPECT_EQ(value("    if a:\n        if b:\n            return 1\n    return 2", {1, 0}), "2");
  // What is wrong is told, and ends.
  EXPECT_EQ(value("    while 1:\n        a = a", {0, 0}), "line 3: expected an end by now");
  EXPECT_EQ(value("    return c", {0, 0}), "line 2: expected a number or a name that has a value");
  EXPECT_EQ(value("    return a // b", {1, 0}), "line 2: expected a divisor that is not 0");
  EXPECT_EQ(value("    a = 1", {0, 0}), "expected it to return a value");
  EXPECT_EQ(value("    import os", {0, 0}),
            "line 2: expected NAME = ..., return ..., if ...:, else: or while ...:");
  EXPECT_EQ(value("    x = 999999999 * 999999999", {0, 0}), "line 2: expected smaller values");
  EXPECT_EQ(value("    return " + std::string(100, '(') + "1" + std::string(100, ')'), {0, 0}),
            "line 2: expected fewer parentheses");
  EXPECT_EQ(value("    else:\n        a = 1", {0, 0}), "line 2: expected an if before else:");
  EXPECT_FALSE(SmallProgram::parse("no function").has_value());
  EXPECT_FALSE(SmallProgram::parse("def f(a:\n    return a").has_value());
}

// What is written to learn from is what the checker takes, at every effort.
TEST(Tasks, ConversationsEndInTheAnswer) {
  for_each_task([](const Task& task, uint64_t index) {
    if (index > 2) return;
    for (const std::string effort : {"none", "high", "max"}) {
      const json::object row = task_conversation(task, effort);
      const auto request = text::parse_chat_request(row);
      ASSERT_TRUE(request.has_value()) << request.error().message();
      ASSERT_EQ(std::string(row.at("effort").as_string()), effort);
      Reply reply;
      size_t reasoning = 0;
      for (const text::Message& message : request->messages) {
        if (message.role != text::Role::assistant) continue;
        reply.content = message.content;
        reasoning += message.reasoning_content.size();
        reply.tool_calls.insert(reply.tool_calls.end(), message.tool_calls.begin(),
                                message.tool_calls.end());
      }
      ASSERT_TRUE(task.check(reply).correct);
      ASSERT_EQ(request->tools.size(), task.tools.size());
      const size_t way = task.reasoning.size();
      ASSERT_EQ(reasoning > 0, effort != "none" && way > 0);
      ASSERT_EQ(reasoning > way, effort == "max" && way > 0);
    }
    const text::ChatRequest asked = task_request(task);
    ASSERT_EQ(asked.messages.back().task.value_or(""), task.quick);
    ASSERT_EQ(asked.messages.size(), task.said.empty() ? 1u : 2u);
  });
}

TEST(Tasks, TextsHoldPromptReasoningAndAnswer) {
  for_each_task([](const Task& task, uint64_t index) {
    if (index > 2) return;
    for (const std::string effort : {"none", "high", "max"}) {
      const std::string text = task_text(task, text::PromptFamily::v4, effort).value();
      const size_t asked = text.find(task.prompt);
      ASSERT_NE(asked, std::string::npos);
      ASSERT_NE(text.find(task.answer.content, asked), std::string::npos);
      const bool thinks = effort != "none" && !task.reasoning.empty();
      ASSERT_EQ(text.find("<think>" + task.reasoning, asked) != std::string::npos, thinks);
      ASSERT_EQ(text.find("Once more.", asked) != std::string::npos, thinks && effort == "max");
      ASSERT_EQ(text.find("Reasoning Effort") != std::string::npos, thinks && effort == "max");
    }
  });
}

TEST(Tools, WrongCallsAreErrorsAndChangeNothing) {
  const Task task = make_task(TaskFamily::tools, 0, kSeed, 0);
  const auto world = task.environment();
  const std::string name =
      python_json(parse_json(task.answer.tool_calls[0].arguments, "x")->at("account"));
  const std::string before = world->call(task.answer.tool_calls[0]);
  const std::pair<std::string, std::string> calls[] = {
      {"get_balance", "{}"},
      {"get_balance", "{\"account\": 3}"},
      {"get_balance", "{\"account\": \"nobody\"}"},
      {"get_balance", "not json"},
      {"get_balance", "[]"},
      {"drop_all", "{}"},
      {"transfer", "{\"from\": " + name + ", \"to\": " + name + ", \"amount\": 1}"},
      {"transfer", "{\"from\": " + name + ", \"to\": \"nobody\", \"amount\": 1}"},
      {"transfer", "{\"from\": " + name + ", \"amount\": -1}"}};
  for (const auto& [tool, arguments] : calls) {
    EXPECT_NE(world->call({.id = "", .name = tool, .name_space = "", .arguments = arguments})
                  .find("error"),
              std::string::npos)
        << arguments;
  }
  EXPECT_EQ(world->call(task.answer.tool_calls[0]), before);
}

// Any bytes are safe to give to any checker.
TEST(Tasks, CheckersTakeAnyBytes) {
  RngStream rng = data_stream(1, DataUse::tasks, 99, 0, 0);
  static const std::string kParts[] = {"Answer:", "\n", "- ", "{", "\"",   "(",
                                       "1",       "/",  "0",  ".", "\xff", "Answer: 1"};
  for_each_task([&](const Task& task, uint64_t index) {
    if (index > 3) return;
    for (int round = 0; round < 20; ++round) {
      std::string content;
      for (uint64_t n = draw_below(rng, 20); n > 0; --n) {
        content += draw_below(rng, 4) == 0 ? std::string(1, static_cast<char>(draw_below(rng, 256)))
                                           : kParts[draw_below(rng, 12)];
      }
      const Verdict verdict = task.check(
          {content, {{.id = "", .name = "transfer", .name_space = "", .arguments = content}}});
      EXPECT_EQ(verdict.correct, verdict.why.empty());
    }
  });
}

TEST(AnswerLine, IsTheLastOneThatBeginsALine) {
  EXPECT_EQ(answer_line("Answer: 4"), "4");
  EXPECT_EQ(answer_line("x\nAnswer:4 \r\nmore"), "4");
  EXPECT_EQ(answer_line("Answer: 1\nAnswer: 2"), "2");
  EXPECT_EQ(answer_line("Answer: the Answer: 2"), "the Answer: 2");
  EXPECT_EQ(answer_line("The Answer: 2"), std::nullopt);
  EXPECT_EQ(answer_line("Answer:"), "");
  EXPECT_EQ(answer_line(""), std::nullopt);
}

}  // namespace
}  // namespace cachalot::data
