#include "verify/golden_json.h"

#include <fmt/format.h>

#include "base/file.h"

namespace cachalot::verify {

Result<GoldenJson> GoldenJson::open(const std::string& path) {
  constexpr size_t kMaxBytes = size_t{64} << 20;
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxBytes));
  auto file = std::make_shared<File>();
  CACHALOT_ASSIGN_OR_RETURN(file->root, parse_json(text, path, 32));
  const json::value* root = &file->root;
  return GoldenJson(std::move(file), root, path + ": ");
}

void GoldenJson::expect(bool holds, std::string_view what) const {
  if (holds || !file_->status.ok()) return;
  file_->status =
      invalid_argument(fmt::format("{}: expected {}, found {}", place_, what,
                                   value_ == nullptr ? "nothing" : json_kind_name(*value_)));
}

GoldenJson GoldenJson::operator[](std::string_view key) const {
  const bool is_object = value_ != nullptr && value_->is_object();
  if (value_ != nullptr) expect(is_object, "object");
  return {file_, is_object ? value_->get_object().if_contains(key) : nullptr,
          fmt::format("{}.{}", place_, key)};
}

bool GoldenJson::has(std::string_view key) const { return !(*this)[key].is_null(); }

std::vector<GoldenJson> GoldenJson::elements() const {
  expect(value_ != nullptr && value_->is_array(), "array");
  std::vector<GoldenJson> out;
  if (value_ == nullptr || !value_->is_array()) return out;
  for (const json::value& element : value_->get_array())
    out.push_back(GoldenJson(file_, &element, fmt::format("{}[{}]", place_, out.size())));
  return out;
}

std::vector<std::string> GoldenJson::keys() const {
  expect(value_ != nullptr && value_->is_object(), "object");
  std::vector<std::string> out;
  if (value_ == nullptr || !value_->is_object()) return out;
  for (const auto& member : value_->get_object()) out.emplace_back(member.key());
  return out;
}

double GoldenJson::number() const {
  const bool holds = value_ != nullptr && value_->is_number();
  expect(holds, "number");
  return holds ? value_->to_number<double>() : 0;
}

int64_t GoldenJson::integer() const {
  const bool holds = value_ != nullptr && value_->is_int64();
  expect(holds, "integer");
  return holds ? value_->get_int64() : 0;
}

bool GoldenJson::boolean() const {
  const bool holds = value_ != nullptr && value_->is_bool();
  expect(holds, "boolean");
  return holds && value_->get_bool();
}

std::string GoldenJson::text() const {
  const bool holds = value_ != nullptr && value_->is_string();
  expect(holds, "string");
  return holds ? std::string(value_->get_string()) : std::string();
}

std::vector<double> GoldenJson::numbers() const {
  std::vector<double> out;
  for (const GoldenJson& element : elements()) out.push_back(element.number());
  return out;
}

std::vector<std::string> GoldenJson::texts() const {
  std::vector<std::string> out;
  for (const GoldenJson& element : elements()) out.push_back(element.text());
  return out;
}

}  // namespace cachalot::verify
