// A JSON file of a golden set, whose layout is known: values are read by path, and the first that
// is not there, or of another kind, is remembered as the error of the whole file. Reads after it
// give zeros and nothing, so that a check reads all it needs and asks once.
// Threads  one owner.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace cachalot::verify {

class GoldenJson {
 public:
  static Result<GoldenJson> open(const std::string& path);

  // The error of the file, the first one; messages name file and place.
  const Status& status() const { return file_->status; }

  GoldenJson operator[](std::string_view key) const;
  bool has(std::string_view key) const;  // and it is not null
  std::vector<GoldenJson> elements() const;
  std::vector<std::string> keys() const;

  double number() const;
  int64_t integer() const;
  bool boolean() const;
  std::string text() const;
  std::vector<double> numbers() const;
  std::vector<std::string> texts() const;
  bool is_null() const { return value_ == nullptr || value_->is_null(); }

 private:
  struct File {
    json::value root;
    Status status;
  };
  GoldenJson(std::shared_ptr<File> file, const json::value* value, std::string place)
      : file_(std::move(file)), value_(value), place_(std::move(place)) {}
  void expect(bool holds, std::string_view what) const;

  std::shared_ptr<File> file_;
  const json::value* value_;  // null: not there
  std::string place_;
};

}  // namespace cachalot::verify
