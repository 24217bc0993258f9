// What answers are worth, and what programs may do.
#include "post/checker.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <chrono>

#include "base/rng.h"
#include "post/limited_program.h"
#include "post/tasks.h"

namespace cachalot::post {
namespace {

Result<std::unique_ptr<Checker>> made(std::string_view spec) {
  const json::value parsed = parse_json(spec, "spec").value();
  return make_checker(parsed.get_object(), json::object{{"prompt", "p"}}, "row 1");
}
Reward judged(std::string_view spec, std::string_view reply) {
  return made(spec).value()->check(reply).value();
}
bool is_right(std::string_view spec, std::string_view reply) { return judged(spec, reply).correct; }

TEST(Checker, ExactAnswers) {
  constexpr std::string_view kSpec = R"({"kind": "exact", "answer": ["42", "Forty-two"]})";
  EXPECT_TRUE(is_right(kSpec, "Let me see.\nAnswer: 42 "));
  EXPECT_TRUE(is_right(kSpec, "Answer: 41\nAnswer: Forty-two"));
  EXPECT_FALSE(is_right(kSpec, "Answer: forty-two"));
  EXPECT_FALSE(is_right(kSpec, "42"));
  EXPECT_EQ(judged(kSpec, "42").why, "no answer (line)");
  EXPECT_TRUE(is_right(R"({"kind": "exact", "answer": "A b", "ignore_case": true, "from": "all"})",
                       " a B\n"));
}

TEST(Checker, Numbers) {
  constexpr std::string_view kThree =
      R"({"kind": "number", "answer": 0.75, "from": "last_number"})";
  for (const std::string_view right : {"0.75", "so 3/4.", "I say .75", "1 and 75e-2!"})
    EXPECT_TRUE(is_right(kThree, right)) << right;
  for (const std::string_view wrong : {"", "none", "3/4 or 4", "0.7500001", "3/0"})
    EXPECT_FALSE(is_right(kThree, wrong)) << wrong;
  EXPECT_TRUE(is_right(R"({"kind": "number", "answer": "-1,234.5", "from": "boxed"})",
                       "x \\boxed{1} \\boxed{-1234.5}"));
  EXPECT_TRUE(
      is_right(R"({"kind": "number", "answer": 1000, "tolerance": 0.01, "from": "all"})", "1009"));
  EXPECT_FALSE(
      is_right(R"({"kind": "number", "answer": 1000, "tolerance": 0.01, "from": "all"})", "1011"));
}

TEST(Checker, Patterns) {
  constexpr std::string_view kSpec = R"({"kind": "regex", "pattern": "[a-z]+ \\d{2}"})";
  EXPECT_TRUE(is_right(kSpec, "abc 12"));
  EXPECT_FALSE(is_right(kSpec, "abc 123"));
  EXPECT_TRUE(is_right(R"({"kind": "regex", "pattern": "(a+)+b", "whole": false})",
                       std::string(5000, 'a') + "b"));
  EXPECT_FALSE(is_right(R"({"kind": "regex", "pattern": "(a+)+b", "whole": false})",
                        std::string(50000, 'a')));
}

TEST(Checker, RulesGiveTheShareThatHolds) {
  constexpr std::string_view kSpec =
      R"({"kind": "rules", "rules": [{"max_words": 3}, {"lower_case": true}, {"contains": "cat"},
          {"ends_with": "."}]})";
  EXPECT_TRUE(is_right(kSpec, "the cat.\n"));
  const Reward half = judged(kSpec, "The cat sat down");
  EXPECT_EQ(half.value, 0.25);
  EXPECT_FALSE(half.correct);
  EXPECT_EQ(half.why, "max_words, lower_case, ends_with");
  EXPECT_TRUE(is_right(R"({"kind": "rules", "rules": [{"json": true}, {"min_lines": 2},
                           {"max_characters": 9}, {"excludes": "x"}, {"starts_with": "{"}]})",
                       "{\"\u00e9\":\n1}"));
}

TEST(Checker, ProgramsSeeTaskAndAnswer) {
  const auto program = [](std::string_view script, std::string_view more = "") {
    return fmt::format(
        R"({{"kind": "program", "command": ["python3", "-c", {}]{}}})",
        "\"import sys, json; row = json.loads(sys.stdin.readline()); " + std::string(script) + "\"",
        more);
  };
  EXPECT_TRUE(is_right(program("sys.exit(row['answer'] != 'yes')"), "yes"));
  const Reward failed = judged(program("sys.exit(row['answer'] != 'yes')"), "no");
  EXPECT_EQ(failed.value, 0);
  EXPECT_EQ(failed.why, "exit status 1");
  EXPECT_EQ(judged(program("print(row['task']['prompt']); print(0.25)"), "").value, 0.25);
  EXPECT_TRUE(is_right(program("print(2)"), ""));
  // Half a number's worth of output, and an end that is none.
  EXPECT_EQ(judged(program("print(1); sys.exit(3)"), "").value, 0);
  EXPECT_EQ(judged(program("print('no number')"), "").value, 1);
}

TEST(Checker, ProgramsAreHeldToTheirLimits) {
  using End = ProgramRun::End;
  const auto run = [](const std::string& script, const ProgramLimits& limits,
                      std::string_view input = "") {
    return run_limited({"/bin/sh", "-c", script}, input, limits).value();
  };
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(run("sleep 100", {.seconds = 0.2}).end, End::timed_out);
  // Nor may it leave children behind that hold its output, or close that and go on.
  EXPECT_EQ(run("sleep 100 & sleep 100", {.seconds = 0.2}).end, End::timed_out);
  EXPECT_EQ(run("exec >&-; sleep 100", {.seconds = 0.2}).end, End::timed_out);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  EXPECT_EQ(run("yes", {.output_bytes = 1000}).end, End::said_too_much);
  EXPECT_EQ(run("kill -9 $$", {}).end, End::killed);
  EXPECT_EQ(run("exit 7", {}).code, 7);
  const ProgramRun memory = run_limited({"python3", "-c", "x = bytearray(1 << 30)"}, "",
                                        {.memory_bytes = int64_t{256} << 20})
                                .value();
  EXPECT_TRUE(memory.end != End::exited || memory.code != 0);
  // Input that is not read, and more of it than a pipe holds.
  const std::string much(1 << 20, 'x');
  EXPECT_EQ(run("exit 0", {}, much).code, 0);
  EXPECT_EQ(run("wc -c", {}, much).output.find("1048576"), 0u);
  const auto none = run_limited({"no-such-program"}, "", {});
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code(), StatusCode::not_found);
}

TEST(Checker, WhatIsWrongWithASpecIsNamed) {
  const auto error = [](std::string_view spec) {
    const auto checker = made(spec);
    EXPECT_FALSE(checker.has_value()) << spec;
    return checker ? "" : checker.error().message();
  };
  EXPECT_EQ(error("{}"), "row 1: check.kind: expected a checker's name, found none");
  EXPECT_NE(error(R"({"kind": "exakt"})").find("exact"), std::string::npos);
  EXPECT_NE(error(R"({"kind": "exact"})").find("check.answer"), std::string::npos);
  EXPECT_NE(error(R"({"kind": "number", "answer": "x"})").find("a number"), std::string::npos);
  EXPECT_NE(error(R"x({"kind": "regex", "pattern": "("})x").find("check.pattern"),
            std::string::npos);
  EXPECT_NE(error(R"x({"kind": "regex", "pattern": "a(?=b)"})x").find("check.pattern"),
            std::string::npos);
  EXPECT_NE(error(R"({"kind": "rules", "rules": []})").find("check.rules"), std::string::npos);
  EXPECT_NE(error(R"({"kind": "rules", "rules": [{"max_word": 1}]})").find("max_words"),
            std::string::npos);
  EXPECT_NE(error(R"({"kind": "program", "command": []})").find("check.command"),
            std::string::npos);
}

// Any bytes: a reward, never a crash.
TEST(Checker, TakesAnyReply) {
  RngStream rng(4, RngPurpose::data, 0);
  for (const std::string_view spec :
       {R"({"kind": "exact", "answer": "1"})",
        R"({"kind": "number", "answer": 1, "from": "boxed"})",
        R"({"kind": "number", "answer": 1, "from": "last_number"})",
        R"({"kind": "regex", "pattern": "(a|b)*c", "whole": false})",
        R"({"kind": "rules", "rules": [{"json": true}, {"max_characters": 3}]})"}) {
    const auto checker = made(spec).value();
    for (int i = 0; i < 300; ++i) {
      std::string reply;
      const uint32_t length = rng.next_u32() % 40;
      for (uint32_t k = 0; k < length; ++k)
        reply += rng.next_u32() % 3 == 0 ? static_cast<char>(rng.next_u32())
                                         : "19./,-+eE\\boxed{}\nAnswer:"[rng.next_u32() % 24];
      EXPECT_TRUE(checker->check(reply).has_value());
    }
  }
}

TEST(Tasks, AreDrawnByTheirWeights) {
  std::vector<TaskSource> sources;
  sources.push_back(
      TaskSource::open({.name = "a", .family = "arithmetic", .weight = 3}, 1).value());
  sources.push_back(TaskSource::open({.name = "s", .family = "sorting", .weight = 1}, 1).value());
  const std::vector<TaskPlace> places = task_places(sources, 0, 400);
  int64_t of_first = 0;
  for (const TaskPlace& place : places) of_first += place.source == 0;
  EXPECT_EQ(of_first, 300);
  // Steps read where those before have ended.
  const std::vector<TaskPlace> later = task_places(sources, 390, 10);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(later[i].source, places[390 + i].source);
    EXPECT_EQ(later[i].draw, places[390 + i].draw);
  }
  EXPECT_EQ(sources[0].task(7).prompt, sources[0].task(7).prompt);
  EXPECT_NE(sources[0].task(7).prompt, sources[0].task(8).prompt);
}

TEST(Tasks, LongReasoningCosts) {
  const LengthPenalty penalty{.factor = 0.5, .per_tokens = 100, .most = 0.8};
  EXPECT_EQ(penalty.of(0), 0);
  EXPECT_EQ(penalty.of(50), 0.25);
  EXPECT_EQ(penalty.of(1000), 0.8);
}

}  // namespace
}  // namespace cachalot::post
