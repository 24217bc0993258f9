#include "data/document_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "data/json_scan.h"
#include "data/text_kind.h"

namespace cachalot::data {
namespace {
constexpr size_t kReadBytes = size_t{1} << 20;

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
}  // namespace

void SkippedLines::add(const SkippedLines& more) {
  count += more.count;
  for (const std::string& reason : more.reasons) {
    if (reasons.size() < kMaxReasons) reasons.push_back(reason);
  }
}

DocumentReader::DocumentReader(std::string path, DocumentOptions options,
                               std::unique_ptr<ByteStream> stream)
    : path_(std::move(path)), options_(std::move(options)), stream_(std::move(stream)) {
  CACHALOT_CHECK(options_.max_document_bytes >= 1);
}

Result<DocumentReader> DocumentReader::open(const std::string& path, DocumentOptions options) {
  CACHALOT_ASSIGN_OR_RETURN(auto stream, ByteStream::open(path));
  return DocumentReader(path, std::move(options), std::move(stream));
}

DocumentReader DocumentReader::from_bytes(std::span<const std::byte> bytes, const std::string& name,
                                          DocumentOptions options) {
  return DocumentReader(name, std::move(options), ByteStream::from_bytes(bytes, name));
}

Status DocumentReader::too_long(int64_t first_byte) const {
  return invalid_argument(
      fmt::format("{}: byte {}: expected a document of at most {} bytes, found more", path_,
                  first_byte, options_.max_document_bytes));
}

Status DocumentReader::begin() {
  has_begun_ = true;
  CACHALOT_RETURN_IF_ERROR(fill());
  give_out(end_ - without_byte_order_mark({buffer_.data(), end_}).size());
  if (options_.format != DocumentOptions::Format::by_content) return {};
  const std::string_view head(buffer_.data() + begin_, end_ - begin_);
  if (const std::optional<std::string_view> kind = not_text(head)) {
    return unsupported(fmt::format(
        "{}: expected text or JSON in UTF-8, plain, gzip or zstd, found {}", path_, *kind));
  }
  is_chosen_ = true;
  options_.format = text_format(head, at_end_, path_);
  return {};
}

Status DocumentReader::fill() {
  // What is left of the buffer moves to its front; the buffer grows only while one line or value is
  // longer.
  const size_t size = end_ - begin_;
  if (size > 0) std::memmove(buffer_.data(), buffer_.data() + begin_, size);
  begin_ = 0;
  end_ = size;
  if (buffer_.size() - end_ < kReadBytes)
    buffer_.resize(std::max(2 * buffer_.size(), end_ + kReadBytes));
  const std::span<char> room = std::span(buffer_).subspan(end_, kReadBytes);
  CACHALOT_ASSIGN_OR_RETURN(const size_t count, stream_->read(room));
  end_ += count;
  at_end_ = count < room.size();
  return {};
}

void DocumentReader::give_out(size_t length) {
  const char* first = buffer_.data() + begin_;
  line_ += std::count(first, first + length, '\n');
  begin_ += length;
  byte_ += static_cast<int64_t>(length);
}

Result<bool> DocumentReader::next_line(std::string_view* line) {
  size_t searched = 0;
  for (;;) {
    const char* first = buffer_.data() + begin_;
    const size_t size = end_ - begin_;
    const void* found =
        size > searched ? std::memchr(first + searched, '\n', size - searched) : nullptr;
    if (found != nullptr || (at_end_ && size > 0)) {
      const size_t length = found != nullptr
                                ? static_cast<size_t>(static_cast<const char*>(found) - first) + 1
                                : size;
      *line = {first, length};
      give_out(length);
      return true;
    }
    if (at_end_) return false;
    searched = size;
    if (static_cast<int64_t>(size) > options_.max_document_bytes) return too_long(byte_);
    CACHALOT_RETURN_IF_ERROR(fill());
  }
}

std::string DocumentReader::place(int64_t line, int64_t byte) const {
  return fmt::format("{}: line {} (byte {})", path_, line, byte);
}

std::string_view DocumentReader::way_out() const {
  if (!is_chosen_) return "";
  return " (--text-field names another member, --format text takes the bytes as they are)";
}

Status DocumentReader::bad_line(Status why) {
  if (why.ok() || !options_.skip_bad_lines) return why;
  skipped_.add({.count = 1, .reasons = {why.message()}});
  return {};
}

Status DocumentReader::text_of(std::string_view object, int64_t line, int64_t first_byte,
                               std::string* document) {
  const JsonScan scan = scan_json_object(object, options_.text_field);
  if (scan.outcome != JsonScan::Outcome::complete) {
    return invalid_argument(fmt::format(
        "{}: not valid JSON at byte {}: expected {}, found {}", place(line, first_byte), scan.end,
        scan.expected, scan.outcome == JsonScan::Outcome::cut ? "the end" : "another byte"));
  }
  if (const std::string_view rest = object.substr(scan.end); !is_blank(rest)) {
    return invalid_argument(
        fmt::format("{}: expected the JSON value to end at byte {}, found {} more",
                    place(line, first_byte), scan.end, rest.size()));
  }
  const auto no_text = [&](std::string_view found) {
    return invalid_argument(fmt::format("{}: field \"{}\": expected a string, found {}{}",
                                        place(line, first_byte), options_.text_field, found,
                                        way_out()));
  };
  if (!scan.member) return no_text("nothing");
  const int64_t member_byte = first_byte + (scan.member->data() - object.data());
  CACHALOT_ASSIGN_OR_RETURN(const json::value text,
                            parse_json(*scan.member, place(line, member_byte)));
  if (!text.is_string()) return no_text(json_kind_name(text));
  const json::string& content = text.get_string();
  document->assign(content.data(), content.size());
  return {};
}

Result<bool> DocumentReader::next_json_line(std::string* document) {
  std::string_view line;
  for (;;) {
    const int64_t first_byte = byte_, number = line_ + 1;
    CACHALOT_ASSIGN_OR_RETURN(const bool more, next_line(&line));
    if (!more) return false;
    if (is_blank(line)) continue;
    if (static_cast<int64_t>(line.size()) > options_.max_document_bytes)
      return too_long(first_byte);
    const size_t indent = line.find_first_not_of(" \t\r");
    document->clear();
    if (line[indent] == '{') {
      CACHALOT_RETURN_IF_ERROR(bad_line(text_of(
          line.substr(indent), number, first_byte + static_cast<int64_t>(indent), document)));
    } else {
      const Result<json::value> value = parse_json(line, place(number, first_byte));
      CACHALOT_RETURN_IF_ERROR(
          bad_line(value ? invalid_argument(fmt::format("{}: expected an object, found {}{}",
                                                        place(number, first_byte),
                                                        json_kind_name(*value), way_out()))
                         : invalid_argument(value.error().message() + std::string(way_out()))));
    }
    if (!document->empty()) return true;
  }
}

Result<bool> DocumentReader::skip_space() {
  for (;;) {
    size_t length = 0;
    while (begin_ + length < end_ && is_space(buffer_[begin_ + length])) ++length;
    give_out(length);
    if (begin_ < end_) return true;
    if (at_end_) return false;
    CACHALOT_RETURN_IF_ERROR(fill());
  }
}

Result<bool> DocumentReader::next_json_value(std::string* document) {
  for (;;) {
    CACHALOT_ASSIGN_OR_RETURN(bool more, skip_space());
    const auto wrong = [&](std::string_view expected) {
      return invalid_argument(fmt::format(
          "{}: expected {}, found {}", place(line_ + 1, byte_), expected,
          more ? fmt::format("byte 0x{:02x}", static_cast<unsigned char>(buffer_[begin_]))
               : "the end"));
    };
    if (std::exchange(is_first_value_, false)) {
      in_array_ = more && buffer_[begin_] == '[';
      if (in_array_) give_out(1);
    } else if (in_array_) {
      if (!more || (buffer_[begin_] != ',' && buffer_[begin_] != ']'))
        return wrong("a comma or the array's end");
      in_array_ = buffer_[begin_] == ',';
      give_out(1);
      if (!in_array_) {
        CACHALOT_ASSIGN_OR_RETURN(more, skip_space());
        if (more) return wrong("the end of the file behind its array");
        return false;
      }
    }
    CACHALOT_ASSIGN_OR_RETURN(more, skip_space());
    if (!more && !in_array_) return false;
    if (!more || buffer_[begin_] != '{') return wrong("an object");

    JsonScan scan;
    size_t scanned = 0;
    for (;;) {
      const std::string_view text(buffer_.data() + begin_, end_ - begin_);
      // Scanned again once twice as much is there, so that a long value costs its length.
      if (at_end_ || text.size() >= 2 * scanned) {
        scan = scan_json_object(text, {});
        scanned = text.size();
        if (at_end_ || scan.outcome != JsonScan::Outcome::cut) break;
      }
      if (static_cast<int64_t>(text.size()) > options_.max_document_bytes) return too_long(byte_);
      CACHALOT_RETURN_IF_ERROR(fill());
    }
    if (static_cast<int64_t>(scan.end) > options_.max_document_bytes) return too_long(byte_);
    const std::string_view object(
        buffer_.data() + begin_,
        scan.outcome == JsonScan::Outcome::complete ? scan.end : end_ - begin_);
    document->clear();
    const Status status = text_of(object, line_ + 1, byte_, document);
    // Where a broken value ends is not known.
    if (scan.outcome != JsonScan::Outcome::complete) return status;
    CACHALOT_RETURN_IF_ERROR(bad_line(status));
    give_out(object.size());
    if (!document->empty()) return true;
  }
}

Result<bool> DocumentReader::next_text(std::string* document) {
  document->clear();
  const int64_t first_byte = byte_;
  std::string_view line;
  for (;;) {
    CACHALOT_ASSIGN_OR_RETURN(const bool more, next_line(&line));
    if (!more) return !document->empty();
    if (options_.split_on_blank_lines && is_blank(line)) {
      if (document->empty()) continue;
      return true;
    }
    if (static_cast<int64_t>(document->size() + line.size()) > options_.max_document_bytes) {
      return too_long(first_byte);
    }
    document->append(line);
  }
}

Result<bool> DocumentReader::next(std::string* document) {
  if (!has_begun_) CACHALOT_RETURN_IF_ERROR(begin());
  switch (options_.format) {
    case DocumentOptions::Format::jsonl: return next_json_line(document);
    case DocumentOptions::Format::json: return next_json_value(document);
    default: return next_text(document);
  }
}

Status no_documents(std::span<const std::string> files, const SkippedLines& skipped) {
  std::string message =
      fmt::format("{}{}: expected documents, found none", files.empty() ? "no file" : files.front(),
                  files.size() > 1 ? fmt::format(" and {} more", files.size() - 1) : std::string());
  if (skipped.count > 0) {
    message += fmt::format(": {} bad lines were skipped, the first: {}", skipped.count,
                           skipped.reasons.front());
  }
  return invalid_argument(std::move(message));
}

}  // namespace cachalot::data
