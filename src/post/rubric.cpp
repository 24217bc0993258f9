#include "post/rubric.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>

#include "base/check.h"
#include "formats/json_fields.h"

namespace cachalot::post {
namespace {

constexpr size_t kMaxItems = 64;
constexpr int64_t kMaxMost = 100;
constexpr double kMaxWeight = 1e6;

Result<RubricItem> read_item(const json::value& value, std::string_view origin) {
  RubricItem item;
  if (value.is_string()) {
    item.text = std::string(value.get_string());
  } else if (value.is_object()) {
    formats::JsonFields fields(value.get_object(), origin, "items.");
    fields.text("text", &item.text);
    fields.real("weight", &item.weight, 1e-9, kMaxWeight);
    CACHALOT_RETURN_IF_ERROR(fields.status());
  }
  if (!item.text.empty()) return item;
  return invalid_argument(
      fmt::format("{}: items: expected texts, or objects of text and weight, found {}", origin,
                  formats::json_excerpt(value)));
}

}  // namespace

Result<Rubric> read_rubric(const json::object& object, std::string_view origin) {
  Rubric rubric;
  formats::JsonFields fields(object, origin);
  fields.integer("most", &rubric.most, 1, kMaxMost);
  const json::value* items = fields.find("items");
  if (items == nullptr || !items->is_array() || items->get_array().empty() ||
      items->get_array().size() > kMaxItems) {
    fields.fail("items", fmt::format("an array of 1 to {} items", kMaxItems),
                items == nullptr ? "none" : formats::json_excerpt(*items));
  }
  CACHALOT_RETURN_IF_ERROR(fields.status());
  for (const json::value& value : items->get_array()) {
    CACHALOT_ASSIGN_OR_RETURN(rubric.items.emplace_back(), read_item(value, origin));
  }
  return rubric;
}

std::string judge_prompt(const Rubric& rubric, std::string_view task, std::string_view answer) {
  std::string prompt =
      fmt::format("Judge an answer.\n\nTask:\n{}\n\nAnswer:\n{}\n\nItems:\n", task, answer);
  for (size_t i = 0; i < rubric.items.size(); ++i)
    prompt += fmt::format("{}. {}\n", i + 1, rubric.items[i].text);
  return prompt + fmt::format(
                      "\nScore each item from 0 to {}. Say {{\"scores\": [{}]}} with the "
                      "scores in the items' order, and nothing else.",
                      rubric.most, rubric.items.size() == 1 ? "..." : "..., ...");
}

std::string verdict_schema(const Rubric& rubric) {
  return fmt::format(
      R"({{"type":"object","properties":{{"scores":{{"type":"array","items":{{"type":"integer",)"
      R"("minimum":0,"maximum":{}}},"minItems":{},"maxItems":{}}}}},"required":["scores"],)"
      R"("additionalProperties":false}})",
      rubric.most, rubric.items.size(), rubric.items.size());
}

std::optional<std::vector<int64_t>> parse_verdict(const Rubric& rubric, std::string_view text) {
  const Result<json::value> value = parse_json(text, "verdict", 8, RepeatedKeys::refused);
  if (!value || !value->is_object() || value->get_object().size() != 1) return {};
  const json::value* list = value->get_object().if_contains("scores");
  if (list == nullptr || !list->is_array() || list->get_array().size() != rubric.items.size())
    return {};
  std::vector<int64_t> scores;
  for (const json::value& one : list->get_array()) {
    if (!one.is_int64() || one.get_int64() < 0 || one.get_int64() > rubric.most) return {};
    scores.push_back(one.get_int64());
  }
  return scores;
}

double rubric_score(const Rubric& rubric, std::span<const int64_t> scores) {
  CACHALOT_CHECK(scores.size() == rubric.items.size());
  double sum = 0, weights = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    sum += rubric.items[i].weight * static_cast<double>(scores[i]);
    weights += rubric.items[i].weight;
  }
  return sum / (weights * static_cast<double>(rubric.most));
}

double agreement(const Rubric& rubric, std::span<const int64_t> scores,
                 std::span<const int64_t> annotated) {
  CACHALOT_CHECK(scores.size() == annotated.size() && !scores.empty());
  double distance = 0;
  for (size_t i = 0; i < scores.size(); ++i)
    distance += static_cast<double>(std::abs(scores[i] - annotated[i]));
  return 1 - distance / static_cast<double>(rubric.most * static_cast<int64_t>(scores.size()));
}

}  // namespace cachalot::post
