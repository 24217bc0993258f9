// Documents of a file of text, plain or JSON, compressed or not (byte_stream.h).
// Memory   One document, one line or JSON value, a megabyte, and the decompressor's window.
// Errors   invalid_argument names path, line and byte (of the decompressed text), what was expected
//          and what was found. unsupported names what a file is that is no text.
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
    // What the first bytes say: JSON objects, one a line (jsonl) or not (json), or text. A name in
    // .json, .jsonl or .ndjson promises JSON, and bytes that are none are refused; so are bytes
    // that are no text (archives, UTF-16, anything with a NUL near the start).
    by_content,
    text,   // whatever the bytes are
    jsonl,  // an object a line
    json,   // objects over as many lines as they like, one after another or in one array
  };
  Format format = Format::by_content;
  // JSON: the member that holds the text; each object has it. What stands beside it may be what
  // JSON does not know, as NaN (json_scan.h).
  std::string text_field = "text";
  // JSON: an object without such a text, or a line that is no object, is passed over and counted;
  // off, it is an error.
  bool skip_bad_lines = false;
  // Text: a document ends before lines of nothing but white space, which belong to none; off, a
  // file is a document.
  bool split_on_blank_lines = false;
  // A longer document, or line of JSON, is an error, so that a wrong file cannot take all memory.
  int64_t max_document_bytes = int64_t{1} << 30;
};

struct SkippedLines {
  static constexpr size_t kMaxReasons = 5;
  int64_t count = 0;
  std::vector<std::string> reasons;  // of the first ones, each naming path, line and byte
  void add(const SkippedLines& more);
};

class DocumentReader {
 public:
  static Result<DocumentReader> open(const std::string& path, DocumentOptions options);
  // The same over bytes that outlive the reader; `name` stands for the path. Any bytes are safe to
  // give.
  static DocumentReader from_bytes(std::span<const std::byte> bytes, const std::string& name,
                                   DocumentOptions options);

  // The next document, byte for byte but for a byte order mark at the file's start; false at the
  // end. Documents without a byte are skipped.
  Result<bool> next(std::string* document);
  // What skip_bad_lines has passed over up to here.
  const SkippedLines& skipped() const { return skipped_; }

 private:
  DocumentReader(std::string path, DocumentOptions options, std::unique_ptr<ByteStream> stream);
  // Decides what the bytes are.
  Status begin();
  // Reads up to a megabyte more behind what is not yet given out.
  Status fill();
  void give_out(size_t length);
  // The next line with its line break, valid until the next call; false at the end.
  Result<bool> next_line(std::string_view* line);
  Result<bool> next_json_line(std::string* document);
  Result<bool> next_json_value(std::string* document);
  // At the next byte that is no white space; false at the end.
  Result<bool> skip_space();
  Result<bool> next_text(std::string* document);
  // The text of an object that stands at byte first_byte.
  Status text_of(std::string_view object, int64_t line, int64_t first_byte, std::string* document);
  // The error, or nothing where bad lines are skipped.
  Status bad_line(Status why);
  // What may have been meant instead, where the format was not given.
  std::string_view way_out() const;
  std::string place(int64_t line, int64_t byte) const;
  Status too_long(int64_t first_byte) const;

  std::string path_;
  DocumentOptions options_;
  std::unique_ptr<ByteStream> stream_;
  std::vector<char> buffer_;
  size_t begin_ = 0;  // buffer_[begin_, end_) is read and not yet given out
  size_t end_ = 0;
  bool at_end_ = false;
  bool has_begun_ = false;
  bool is_chosen_ = false;  // the format, by content
  bool in_array_ = false;   // json: the file is one array
  bool is_first_value_ = true;
  SkippedLines skipped_;
  int64_t line_ = 0;  // line breaks given out
  int64_t byte_ = 0;  // where the next line begins
};

// That files held none: nothing is to do, and saying so beats an empty result.
Status no_documents(std::span<const std::string> files, const SkippedLines& skipped);

}  // namespace cachalot::data
