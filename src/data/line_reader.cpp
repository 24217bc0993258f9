#include "data/line_reader.h"

#include <fmt/format.h>

namespace cachalot::data {
namespace {
constexpr size_t kReadBytes = size_t{1} << 20;
}  // namespace

Result<bool> LineReader::next(std::string* line) {
  size_t searched = begin_;
  while (true) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos || at_end_) {
      if (end == std::string::npos && begin_ == buffer_.size()) return false;
      line->assign(buffer_, begin_, (end == std::string::npos ? buffer_.size() : end) - begin_);
      begin_ = end == std::string::npos ? buffer_.size() : end + 1;
      ++line_;
      return true;
    }
    buffer_.erase(0, begin_);
    begin_ = 0;
    searched = buffer_.size();
    if (buffer_.size() > max_bytes_) {
      return invalid_argument(fmt::format("{}:{}: expected a line of at most {} bytes, found more",
                                          name_, line_ + 1, max_bytes_));
    }
    buffer_.resize(searched + kReadBytes);
    CACHALOT_ASSIGN_OR_RETURN(const size_t count,
                              stream_->read(std::span(buffer_).subspan(searched)));
    buffer_.resize(searched + count);
    at_end_ = count < kReadBytes;
  }
}

}  // namespace cachalot::data
