// Reads text character by character, refusing what is no UTF-8.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace cachalot::grammar {

class Utf8Reader {
 public:
  explicit Utf8Reader(std::string_view text) : text_(text) {}

  bool at_end() const { return at_ == text_.size(); }
  size_t at() const { return at_; }
  // The next byte; 0 at the end.
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool starts_with(std::string_view literal) const {
    return text_.substr(at_).starts_with(literal);
  }
  bool take(std::string_view literal) {
    if (!starts_with(literal)) return false;
    at_ += literal.size();
    return true;
  }
  void skip(size_t bytes) { at_ += bytes; }
  std::string_view since(size_t begin) const { return text_.substr(begin, at_ - begin); }
  std::string_view rest() const { return text_.substr(at_); }

  // Nothing at the end, or where the bytes are no UTF-8.
  std::optional<uint32_t> next();

 private:
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace cachalot::grammar
