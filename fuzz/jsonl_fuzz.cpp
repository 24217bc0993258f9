// libFuzzer target: documents out of files of text and of JSON lines, as they are or compressed. A
// reader may refuse any bytes, with an error that names the file; what it gives is not empty and
// within its limit, and out of JSON lines it is UTF-8 that JSON lines written of it give again.
// Compressed, in one piece or two, a file gives the same documents and the same error.
//
// The first byte chooses: 0 the rest as it is and compressed here; 1 the rest is gzip; 2 it is
// zstd. The second chooses the format (JSON lines half of the time) and the limit, the third where
// the second compressed piece begins.
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/python_json.h"
#include "data/document_reader.h"
#include "data/extract/clean_text.h"

namespace {
using namespace cachalot;
using namespace cachalot::data;

// zstd makes up to 32,000 bytes of one: a longer input would only be slow.
constexpr size_t kMaxZstdBytes = 512;

struct Reading {
  std::vector<std::string> documents;
  std::string error;  // without the name; empty: none
  bool operator==(const Reading&) const = default;
};

Reading read_all(std::string_view bytes, const std::string& name, const DocumentOptions& options) {
  DocumentReader reader = DocumentReader::from_bytes(
      std::as_bytes(std::span(bytes.data(), bytes.size())), name, options);
  Reading reading;
  std::string document;
  for (;;) {
    const Result<bool> more = reader.next(&document);
    if (!more.has_value()) {
      CACHALOT_CHECK(more.error().message().starts_with(name + ": "));
      reading.error = more.error().message().substr(name.size());
      return reading;
    }
    if (!*more) break;
    CACHALOT_CHECK(!document.empty());
    CACHALOT_CHECK(static_cast<int64_t>(document.size()) <= options.max_document_bytes);
    reading.documents.push_back(document);
  }
  CACHALOT_CHECK(!*reader.next(&document));
  return reading;
}

std::string gzip(std::string_view text) {
  z_stream stream = {};
  CACHALOT_CHECK(deflateInit2(&stream, 1, Z_DEFLATED, MAX_WBITS + 16, 1, Z_DEFAULT_STRATEGY) ==
                 Z_OK);
  std::string in(text), out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  CACHALOT_CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  const size_t size = ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1);
  CACHALOT_CHECK(!ZSTD_isError(size));
  out.resize(size);
  return out;
}

void check_json_lines(const Reading& reading) {
  Reading again;
  std::string lines;
  for (const std::string& document : reading.documents) {
    CACHALOT_CHECK(utf8_of(document) == document);
    lines += python_json(json::object{{"text", document}}) + "\n";
  }
  again = read_all(lines, "again", {.format = DocumentOptions::Format::jsonl});
  CACHALOT_CHECK(again.error.empty());
  CACHALOT_CHECK(again.documents == reading.documents);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 3, size - 3);
  const bool is_jsonl = data[1] % 2 == 0;
  const DocumentOptions options = {
      .format = is_jsonl ? DocumentOptions::Format::jsonl : DocumentOptions::Format::text,
      .split_on_blank_lines = data[1] % 4 == 1,
      .max_document_bytes = int64_t{16} << (data[1] / 4 % 16)};
  Reading reading;
  switch (data[0] % 3) {
    case 0: {
      // What begins with a magic number is read as what it says.
      if (input.starts_with("\x1F\x8B") || input.find("\xB5\x2F\xFD") == 1 ||
          input.find("\x2A\x4D\x18") == 1)
        return 0;
      reading = read_all(input, "input", options);
      const size_t cut = std::min<size_t>(data[2], input.size());
      const std::string_view first = input.substr(0, cut), second = input.substr(cut);
      for (const DocumentOptions::Format format :
           {DocumentOptions::Format::by_content, DocumentOptions::Format::json}) {
        DocumentOptions other = options;
        other.format = format;
        other.skip_bad_lines = true;
        read_all(input, "input", other);
      }
      CACHALOT_CHECK(read_all(gzip(input), "input.gz", options) == reading);
      CACHALOT_CHECK(read_all(zstd(input), "input.zst", options) == reading);
      CACHALOT_CHECK(read_all(gzip(first) + gzip(second), "input.gz", options) == reading);
      CACHALOT_CHECK(read_all(zstd(first) + zstd(second), "input.zst", options) == reading);
      if (!is_jsonl && !options.split_on_blank_lines && reading.error.empty() &&
          without_byte_order_mark(input) == input) {
        CACHALOT_CHECK(input.empty()
                           ? reading.documents.empty()
                           : reading.documents == std::vector<std::string>{std::string(input)});
      }
      break;
    }
    case 1: reading = read_all(input, "input.gz", options); break;
    default:
      if (input.size() > kMaxZstdBytes) return 0;
      reading = read_all(input, "input.zst", options);
  }
  if (is_jsonl) check_json_lines(reading);
  return 0;
}
