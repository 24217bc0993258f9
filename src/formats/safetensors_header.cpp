#include "formats/safetensors_header.h"

#include <fmt/format.h>

#include <boost/json/basic_parser_impl.hpp>
#include <optional>

#include "base/json.h"
#include "formats/safetensors.h"

namespace cachalot::formats {
namespace {

// Receives the parser's events. A header is an object of objects: level 1 holds names, level 2
// fields, level 3 is inside "shape" and "data_offsets". Any other structure sets `status` and stops
// the parser.
class Handler {
 public:
  static constexpr size_t max_object_size = static_cast<size_t>(-1);
  static constexpr size_t max_array_size = 64;
  static constexpr size_t max_key_size = 1 << 16;
  static constexpr size_t max_string_size = 1 << 24;

  explicit Handler(std::string_view origin) : origin_(origin) {}

  Status status;
  SafetensorsHeader header;

  using Error = boost::json::error_code;

  bool on_document_begin(Error&) { return true; }
  bool on_document_end(Error&) { return true; }
  bool on_object_begin(Error& error) {
    if (level_ == 1) {
      if (key_ == "__metadata__") {
        in_metadata_ = true;
      } else {
        entry_ = {};
        entry_.name = key_;
        has_dtype_ = has_shape_ = has_offsets_ = false;
      }
    } else if (level_ != 0) {
      return wrong(error, expected_here(), "an object");
    }
    ++level_;
    return true;
  }
  bool on_object_end(size_t, Error& error) {
    --level_;
    if (level_ != 1) return true;
    if (in_metadata_) {
      in_metadata_ = false;
      return true;
    }
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      return fail(error, invalid_argument(fmt::format(
                             "{}: tensor {}: expected dtype, shape and data_offsets, found no {}",
                             origin_, shown(entry_.name),
                             !has_dtype_   ? "dtype"
                             : !has_shape_ ? "shape"
                                           : "data_offsets")));
    }
    header.entries.push_back(std::move(entry_));
    return true;
  }
  bool on_array_begin(Error& error) {
    if (level_ != 2 || in_metadata_ || (key_ != "shape" && key_ != "data_offsets")) {
      return wrong(error, expected_here(), "an array");
    }
    numbers_.clear();
    ++level_;
    return true;
  }
  bool on_array_end(size_t, Error& error) {
    --level_;
    if (key_ == "shape") {
      if (has_shape_) return twice(error);
      has_shape_ = true;
      for (uint64_t extent : numbers_) entry_.shape.push_back(static_cast<int64_t>(extent));
      return true;
    }
    if (has_offsets_) return twice(error);
    if (numbers_.size() != 2)
      return wrong(error, "two offsets", fmt::format("{}", numbers_.size()));
    has_offsets_ = true;
    entry_.begin = numbers_[0];
    entry_.end = numbers_[1];
    return true;
  }
  bool on_key_part(boost::json::string_view part, size_t, Error&) {
    text_ += part;
    return true;
  }
  bool on_key(boost::json::string_view part, size_t, Error& error) {
    text_ += part;
    key_ = std::move(text_);
    text_.clear();
    if (level_ == 2 && !in_metadata_ && key_ != "dtype" && key_ != "shape" &&
        key_ != "data_offsets") {
      return wrong(error, "dtype, shape or data_offsets", shown(key_));
    }
    return true;
  }
  bool on_string_part(boost::json::string_view part, size_t, Error&) {
    text_ += part;
    return true;
  }
  bool on_string(boost::json::string_view part, size_t, Error& error) {
    text_ += part;
    std::string value = std::move(text_);
    text_.clear();
    if (level_ == 2 && in_metadata_) {
      header.metadata[key_] = std::move(value);
      return true;
    }
    if (level_ != 2 || key_ != "dtype") return wrong(error, expected_here(), "a string");
    if (has_dtype_) return twice(error);
    has_dtype_ = true;
    const std::optional<tensor::DType> dtype = tensor::dtype_from_name(value);
    entry_.stored = stored_dtype(value);
    if (!dtype && !entry_.stored) {
      return fail(error,
                  unsupported(fmt::format(
                      "{}: tensor {}: dtype: expected a known one (F32, BF16, F8_E4M3, ...), "
                      "found {}",
                      origin_, shown(entry_.name), shown(value))));
    }
    entry_.dtype = dtype.value_or(tensor::DType::u8);
    return true;
  }
  bool on_number_part(boost::json::string_view, Error&) { return true; }
  bool on_int64(int64_t value, boost::json::string_view, Error& error) {
    if (level_ != 3) return wrong(error, expected_here(), "a number");
    if (value < 0) return wrong(error, "a number that is not negative", fmt::format("{}", value));
    if (key_ == "shape" && numbers_.size() == kMaxTensorRank) {
      return wrong(error, fmt::format("at most {} axes", kMaxTensorRank), "more");
    }
    numbers_.push_back(static_cast<uint64_t>(value));
    return true;
  }
  bool on_uint64(uint64_t value, boost::json::string_view, Error& error) {
    return wrong(error, "a number below 2^63", fmt::format("{}", value));
  }
  bool on_double(double value, boost::json::string_view, Error& error) {
    return wrong(error, level_ == 3 ? "integers" : expected_here(), fmt::format("{}", value));
  }
  bool on_bool(bool, Error& error) { return wrong(error, expected_here(), "a boolean"); }
  bool on_null(Error& error) {
    // Some writers spell metadata that they do not have.
    if ((level_ == 1 && key_ == "__metadata__") || (level_ == 2 && in_metadata_)) return true;
    return wrong(error, expected_here(), "null");
  }
  bool on_comment_part(boost::json::string_view, Error&) { return true; }
  bool on_comment(boost::json::string_view, Error&) { return true; }

 private:
  static std::string shown(const std::string& text) {
    return text.size() <= 120 ? text : text.substr(0, 120) + "...";
  }
  std::string expected_here() const {
    if (level_ == 0) return "an object";
    if (level_ == 1) return "an object per tensor";
    if (level_ == 3) return "integers";
    if (in_metadata_) return "strings";
    return key_ == "dtype" ? "a string" : "an array of integers";
  }
  bool fail(Error& error, Status why) {
    status = std::move(why);
    // any error stops the parser; `status` is what is reported
    error = boost::json::error::exception;
    return false;
  }
  bool wrong(Error& error, std::string_view expected, std::string_view found) {
    std::string where;
    if (level_ == 1) where = fmt::format("tensor {}: ", shown(key_));
    if (level_ >= 2)
      where = fmt::format("tensor {}: {}: ", in_metadata_ ? "__metadata__" : shown(entry_.name),
                          shown(key_));
    return fail(error, invalid_argument(fmt::format("{}: header: {}expected {}, found {}", origin_,
                                                    where, expected, found)));
  }
  bool twice(Error& error) { return wrong(error, "each field once", shown(key_) + " twice"); }

  std::string_view origin_;
  int level_ = 0;
  bool in_metadata_ = false;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  std::string key_;
  std::string text_;  // of a key or string that arrives in parts
  std::vector<uint64_t> numbers_;
  HeaderEntry entry_;
};

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::string_view text, std::string_view origin) {
  boost::json::parse_options options;
  options.max_depth = 8;
  boost::json::basic_parser<Handler> parser(options, origin);
  boost::json::error_code error;
  const size_t consumed = parser.write_some(false, text.data(), text.size(), error);
  if (!parser.handler().status.ok()) return parser.handler().status;
  if (error) {
    return invalid_argument(fmt::format("{}: header: not valid JSON at byte {}: {}", origin,
                                        consumed, error.message()));
  }
  if (consumed != text.size()) {
    return invalid_argument(
        fmt::format("{}: header: expected its JSON to end at byte {}, found {} more", origin,
                    consumed, text.size() - consumed));
  }
  return std::move(parser.handler().header);
}

}  // namespace cachalot::formats
