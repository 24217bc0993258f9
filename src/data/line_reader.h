// The lines of a file, decompressed where it is (byte_stream.h).
// Errors  the stream's; invalid_argument for a line of more than max_bytes, so that a wrong file
//         cannot take all memory.
// Threads one owner.
#pragma once

#include <memory>
#include <string>

#include "data/byte_stream.h"

namespace cachalot::data {

class LineReader {
 public:
  LineReader(std::unique_ptr<ByteStream> stream, std::string name, size_t max_bytes)
      : stream_(std::move(stream)), name_(std::move(name)), max_bytes_(max_bytes) {}

  // The next line without its line break; false at the end.
  Result<bool> next(std::string* line);
  int64_t line() const { return line_; }  // number of the last one, from 1

 private:
  std::unique_ptr<ByteStream> stream_;
  std::string name_;
  size_t max_bytes_;
  std::string buffer_;  // from begin_ on not yet given out
  size_t begin_ = 0;
  bool at_end_ = false;
  int64_t line_ = 0;
};

}  // namespace cachalot::data
