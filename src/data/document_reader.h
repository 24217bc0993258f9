// Documents of a file of text, plain or JSON lines, compressed or not (byte_stream.h).
// Memory   One document, one line and a megabyte.
// Errors   invalid_argument names path, line and byte (of the decompressed text), what was expected
//          and what was found.
// Threads  One owner.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "data/byte_stream.h"

namespace cachalot::data {

struct DocumentOptions {
  enum class Format {
    by_name,  // JSON lines if the name without .gz or .zst ends in .jsonl or .ndjson, else text
    text,
    jsonl,
  };
  Format format = Format::by_name;
  // JSON lines: the member that holds the text; each line is an object that has it.
  std::string text_field = "text";
  // Text: a document ends before lines of nothing but white space, which belong to none; off, a
  // file is a document.
  bool split_on_blank_lines = false;
  // A longer document, or line of JSON, is an error, so that a wrong file cannot take all memory.
  int64_t max_document_bytes = int64_t{1} << 30;
};

class DocumentReader {
 public:
  static Result<DocumentReader> open(const std::string& path, DocumentOptions options);
  // The same over bytes that outlive the reader; `name` stands for the path. Any bytes are safe to
  // give.
  static DocumentReader from_bytes(std::span<const std::byte> bytes, const std::string& name,
                                   DocumentOptions options);

  // The next document, byte for byte; false at the end. Documents without a byte are skipped.
  Result<bool> next(std::string* document);

 private:
  DocumentReader(std::string path, DocumentOptions options, std::unique_ptr<ByteStream> stream);
  // The next line with its line break, valid until the next call; false at the end.
  Result<bool> next_line(std::string_view* line);
  Result<bool> next_json(std::string* document);
  Result<bool> next_text(std::string* document);
  Status too_long(int64_t first_byte) const;

  std::string path_;
  DocumentOptions options_;
  std::unique_ptr<ByteStream> stream_;
  std::vector<char> buffer_;
  size_t begin_ = 0;  // buffer_[begin_, end_) is read and not yet given out
  size_t end_ = 0;
  bool at_end_ = false;
  int64_t line_ = 0;  // of the line given last, from 1
  int64_t byte_ = 0;  // where the next line begins
};

}  // namespace cachalot::data
