// Rubrics: what a judge is asked about an answer, and what its verdict says. The judge is the
// policy itself, asked as it is asked anything else (judges.h).
// Source  reference/post-training 4.
// Verdict {"scores": [2, 0, 1]}, after reasoning or none: for each item a whole number from 0 to
//         `most`. Any other text is no verdict.
// Threads any.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::post {

struct RubricItem {
  std::string text;
  double weight = 1;
};

struct Rubric {
  std::vector<RubricItem> items;
  int64_t most = 1;
};

// Of {"items": ["...", {"text": "...", "weight": 2}], "most": 3}. Errors: origin, key, expected,
// found.
Result<Rubric> read_rubric(const json::object& object, std::string_view origin);

// Why a judge has no reward.
inline constexpr std::string_view kNoVerdict = "no verdict";

// The user's message to a judge.
std::string judge_prompt(const Rubric& rubric, std::string_view task, std::string_view answer);
// What binds a verdict's text, as a JSON schema (grammar/json_schema.h).
std::string verdict_schema(const Rubric& rubric);
// The scores; nothing: no verdict.
std::optional<std::vector<int64_t>> parse_verdict(const Rubric& rubric, std::string_view text);
// In [0, 1]: the items' scores over `most`, by their weights.
double rubric_score(const Rubric& rubric, std::span<const int64_t> scores);
// In [0, 1]: one less the mean distance of the scores, over `most`.
double agreement(const Rubric& rubric, std::span<const int64_t> scores,
                 std::span<const int64_t> annotated);

}  // namespace cachalot::post
