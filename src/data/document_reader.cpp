#include "data/document_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/json.h"

namespace cachalot::data {
namespace {
constexpr size_t kReadBytes = size_t{1} << 20;

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

bool names_json_lines(std::string_view path) {
  for (const std::string_view ending : {".gz", ".zst"}) {
    if (path.ends_with(ending)) path.remove_suffix(ending.size());
  }
  return path.ends_with(".jsonl") || path.ends_with(".ndjson");
}
}  // namespace

DocumentReader::DocumentReader(std::string path, DocumentOptions options,
                               std::unique_ptr<ByteStream> stream)
    : path_(std::move(path)), options_(std::move(options)), stream_(std::move(stream)) {
  CACHALOT_CHECK(options_.max_document_bytes >= 1);
  if (options_.format == DocumentOptions::Format::by_name) {
    options_.format =
        names_json_lines(path_) ? DocumentOptions::Format::jsonl : DocumentOptions::Format::text;
  }
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
      begin_ += length;
      byte_ += static_cast<int64_t>(length);
      ++line_;
      return true;
    }
    if (at_end_) return false;
    searched = size;
    if (static_cast<int64_t>(size) > options_.max_document_bytes) return too_long(byte_);
    // What is left of the buffer moves to its front; the buffer grows only while one line is
    // longer.
    if (size > 0) std::memmove(buffer_.data(), first, size);
    begin_ = 0;
    end_ = size;
    if (buffer_.size() - end_ < kReadBytes)
      buffer_.resize(std::max(2 * buffer_.size(), end_ + kReadBytes));
    const std::span<char> room = std::span(buffer_).subspan(end_, kReadBytes);
    CACHALOT_ASSIGN_OR_RETURN(const size_t count, stream_->read(room));
    end_ += count;
    at_end_ = count < room.size();
  }
}

Result<bool> DocumentReader::next_json(std::string* document) {
  std::string_view line;
  for (;;) {
    const int64_t first_byte = byte_;
    CACHALOT_ASSIGN_OR_RETURN(const bool more, next_line(&line));
    if (!more) return false;
    if (is_blank(line)) continue;
    if (static_cast<int64_t>(line.size()) > options_.max_document_bytes)
      return too_long(first_byte);
    const std::string origin = fmt::format("{}: line {} (byte {})", path_, line_, first_byte);
    CACHALOT_ASSIGN_OR_RETURN(const json::value value, parse_json(line, origin));
    if (!value.is_object()) {
      return invalid_argument(
          fmt::format("{}: expected an object, found {}", origin, json_kind_name(value)));
    }
    const json::value* text = value.get_object().if_contains(options_.text_field);
    if (text == nullptr || !text->is_string()) {
      return invalid_argument(fmt::format("{}: field \"{}\": expected a string, found {}", origin,
                                          options_.text_field,
                                          text == nullptr ? "nothing" : json_kind_name(*text)));
    }
    const json::string& content = text->get_string();
    if (content.empty()) continue;
    document->assign(content.data(), content.size());
    return true;
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
  return options_.format == DocumentOptions::Format::jsonl ? next_json(document)
                                                           : next_text(document);
}

}  // namespace cachalot::data
