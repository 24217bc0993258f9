// What an answer to a task is worth, by rules: no model judges here.
// Source  reference/post-training 2.3 (easy to verify: rules, verifiers, test cases).
// Spec    a JSON object; "kind" names the checker:
//   exact    answer: a text or several; ignore_case: false. The answer, without outer white space,
//            is one of them.
//   number   answer: a number, or a text as "3/4"; tolerance: 0, absolute or relative, whichever is
//            wider. 1,000.5 and -2e3 and 3/4 are numbers; no other is.
//   regex    pattern (grammar/regex.h); whole: true, or anywhere in the answer.
//   rules    rules: objects of one key: min_words, max_words, min_lines, max_lines, max_characters
//            (numbers), contains, excludes, starts_with, ends_with (texts), lower_case, upper_case,
//            json (true). The reward is the share that holds; correct is all.
//   program  command: texts; seconds, memory_bytes, output_bytes (limited_program.h). Its standard
//            input is {"task": .., "answer": ..} in one line. A number on its last line of output
//            is the reward, correct from 1 on; without one it is 1 for exit status 0. Another end
//            gives reward 0 with its reason.
//   "from" says where the answer stands in a reply: "line" (behind the last "Answer:" that begins a
//   line), "last_number", "boxed" (in the last \boxed{}), "all"; by default line for exact and
//   number, all for the others. A reply without one is wrong.
// Errors  invalid_argument: place, key, expected, found; not_found: a program that is not there.
// Threads one at a time for each checker.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "post/rollout_log.h"

namespace cachalot::post {

class Checker {
 public:
  virtual ~Checker() = default;
  // reply: without reasoning. Any bytes are safe to give.
  virtual Result<Reward> check(std::string_view reply) = 0;
};

// `task` is what a program is shown of it.
Result<std::unique_ptr<Checker>> make_checker(const json::object& spec, const json::value& task,
                                              std::string_view origin);

// A decimal number or a fraction, as above.
std::optional<double> parse_number(std::string_view text);
// What `from` finds; nothing where it is not there.
std::optional<std::string_view> find_answer(std::string_view reply, std::string_view from);

}  // namespace cachalot::post
