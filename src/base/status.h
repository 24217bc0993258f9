// Status and Result<T>: how functions that can fail report it. Codes follow style.md 7; a message
// names the object and both values (expected, found). Result has std::expected's member names,
// which GCC 12 does not offer.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace cachalot {

enum class StatusCode {
  ok,
  invalid_argument,    // the caller's input is wrong: a bad file, request or flag
  not_found,           // a named thing does not exist
  data_loss,           // stored bytes are truncated, torn or fail their checksum
  io_error,            // the operating system refused an operation
  resource_exhausted,  // a limit is reached: memory, blocks, disk
  unsupported,         // well-formed, but no implementation takes it
  cancelled,           // stopped on request
};

std::string_view status_code_name(StatusCode code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::ok; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // "invalid_argument: model.safetensors: ..."
  std::string to_string() const;

 private:
  StatusCode code_ = StatusCode::ok;
  std::string message_;
};

inline Status invalid_argument(std::string message) {
  return {StatusCode::invalid_argument, std::move(message)};
}
inline Status not_found(std::string message) { return {StatusCode::not_found, std::move(message)}; }
inline Status data_loss(std::string message) { return {StatusCode::data_loss, std::move(message)}; }
inline Status io_error(std::string message) { return {StatusCode::io_error, std::move(message)}; }
inline Status resource_exhausted(std::string message) {
  return {StatusCode::resource_exhausted, std::move(message)};
}
inline Status unsupported(std::string message) {
  return {StatusCode::unsupported, std::move(message)};
}
inline Status cancelled(std::string message) { return {StatusCode::cancelled, std::move(message)}; }

// Either a T or the Status that says why there is none. value() on an error is a CHECK failure.
template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : value_(std::move(value)) {}
  Result(Status status) : status_(std::move(status)) { CACHALOT_CHECK(!status_.ok()); }

  bool has_value() const { return value_.has_value(); }
  explicit operator bool() const { return has_value(); }
  const Status& error() const { return status_; }
  T& value() & {
    CACHALOT_CHECK_MSG(has_value(), status_.message());
    return *value_;
  }
  const T& value() const& {
    CACHALOT_CHECK_MSG(has_value(), status_.message());
    return *value_;
  }
  T&& value() && {
    CACHALOT_CHECK_MSG(has_value(), status_.message());
    return *std::move(value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace cachalot

#define CACHALOT_CONCAT_INNER(a, b) a##b
#define CACHALOT_CONCAT(a, b) CACHALOT_CONCAT_INNER(a, b)

#define CACHALOT_RETURN_IF_ERROR(expr)                        \
  do {                                                        \
    if (::cachalot::Status status_ = (expr); !status_.ok()) { \
      return status_;                                         \
    }                                                         \
  } while (false)

#define CACHALOT_ASSIGN_OR_RETURN_IMPL(result, lhs, expr) \
  auto result = (expr);                                   \
  if (!result.has_value()) return result.error();         \
  lhs = *std::move(result)

// CACHALOT_ASSIGN_OR_RETURN(auto file, MappedFile::open(path));
#define CACHALOT_ASSIGN_OR_RETURN(lhs, expr) \
  CACHALOT_ASSIGN_OR_RETURN_IMPL(CACHALOT_CONCAT(result_, __LINE__), lhs, expr)
