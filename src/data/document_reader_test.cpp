#include "data/document_reader.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <fstream>

#include "data/byte_stream.h"
#include "data/data_testing.h"
#include "data/streams.h"

namespace cachalot::data {
namespace {

std::string gzip(std::string_view text) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(text.size() + 1000, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(std::string_view text) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return out;
}

class DocumentReaderTest : public DataFiles {
 protected:
  std::string file(const std::string& name, std::string_view bytes) {
    std::ofstream(path(name), std::ios::binary) << bytes;  // not synced: there are thousands
    return path(name);
  }
  static Result<std::vector<std::string>> documents(const std::string& path,
                                                    DocumentOptions options = {}) {
    CACHALOT_ASSIGN_OR_RETURN(DocumentReader reader, DocumentReader::open(path, options));
    std::vector<std::string> all;
    std::string document;
    for (;;) {
      CACHALOT_ASSIGN_OR_RETURN(const bool more, reader.next(&document));
      if (!more) return all;
      all.push_back(document);
    }
  }
  static Result<std::string> stream(const std::string& path, size_t piece) {
    CACHALOT_ASSIGN_OR_RETURN(auto stream, ByteStream::open(path));
    std::string all, part(piece, '\0');
    for (;;) {
      CACHALOT_ASSIGN_OR_RETURN(const size_t count, stream->read(part));
      all.append(part, 0, count);
      if (count < piece) return all;
    }
  }
};
using Documents = std::vector<std::string>;

std::string long_text(size_t size) {
  RngStream rng = data_stream(1, DataUse::tasks, 0, 0, 0);
  std::string text;
  while (text.size() < size) text += "word" + std::to_string(draw_below(rng, 100000)) + "\n";
  return text;
}

TEST_F(DocumentReaderTest, CompressedStreamsAreTheirContent) {
  const std::string text = long_text(300000);
  const std::string names[] = {
      file("a.txt", text), file("a.txt.gz", gzip(text)), file("a.txt.zst", zstd(text)),
      file("two.gz", gzip(text.substr(0, 1000)) + gzip(text.substr(1000))),
      file("two.zst", zstd(text.substr(0, 1000)) + zstd(text.substr(1000)))};
  for (const std::string& name : names) {
    for (const size_t piece : {1000000, 4096, 300000, 77}) {
      const auto all = stream(name, piece);
      ASSERT_TRUE(all.has_value()) << all.error().to_string();
      ASSERT_TRUE(*all == text) << name << " in pieces of " << piece;
    }
  }
  EXPECT_EQ(*stream(file("empty.gz", gzip("")), 10), "");
  EXPECT_EQ(*stream(file("empty.zst", zstd("")), 10), "");
  EXPECT_EQ(*stream(file("empty", ""), 10), "");
}

TEST_F(DocumentReaderTest, BytesReadAsTheFileThatHoldsThem) {
  const std::string lines = "{\"text\": \"one\"}\n\n{\"text\": \"two\"}\n[3]\n";
  const std::pair<std::string, std::string> files[] = {
      {"a.jsonl", lines}, {"a.jsonl.gz", gzip(lines)}, {"a.jsonl.zst", zstd(lines)}};
  for (const auto& [name, bytes] : files) {
    DocumentReader reader =
        DocumentReader::from_bytes(std::as_bytes(std::span(bytes)), path(name), {});
    std::string document;
    for (const std::string expected : {"one", "two"}) {
      ASSERT_TRUE(*reader.next(&document));
      EXPECT_EQ(document, expected);
    }
    EXPECT_EQ(reader.next(&document).error().message(),
              documents(file(name, bytes)).error().message());
  }
}

// Cut anywhere, or with bytes behind the end, a compressed file is an error that names it and the
// place.
TEST_F(DocumentReaderTest, TruncatedFilesAreErrors) {
  const std::string text = long_text(400);
  const std::pair<std::string, std::string> files[] = {{"x.gz", gzip(text)}, {"x.zst", zstd(text)}};
  for (const auto& [name, whole] : files) {
    for (size_t size = 0; size < whole.size(); ++size) {
      const auto all = stream(file(name, whole.substr(0, size)), 512);
      ASSERT_FALSE(all.has_value()) << name << " of " << size;
      ASSERT_EQ(all.error().code(), StatusCode::data_loss);
      ASSERT_NE(all.error().message().find(name + ": byte "), std::string::npos);
    }
    EXPECT_FALSE(stream(file(name, whole + "tail"), 512).has_value());
    EXPECT_FALSE(stream(file(name, text), 512).has_value());
  }
}

// A flipped bit never gives other text: the checksums see it. (Headers have bits that mean
// nothing.)
TEST_F(DocumentReaderTest, CorruptFilesAreErrors) {
  const std::string text = long_text(700);
  const std::pair<std::string, std::string> files[] = {{"x.gz", gzip(text)}, {"x.zst", zstd(text)}};
  for (const auto& [name, whole] : files) {
    int num_errors = 0;
    for (size_t i = 0; i < whole.size(); i += 3) {
      std::string bad = whole;
      bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
      const auto all = stream(file(name, bad), 512);
      if (all.has_value()) {
        ASSERT_TRUE(*all == text) << name << " byte " << i;
      } else {
        ++num_errors;
      }
    }
    EXPECT_GT(num_errors, static_cast<int>(whole.size() / 3) - 8);
  }
}

TEST_F(DocumentReaderTest, TextIsOneDocument) {
  EXPECT_EQ(*documents(file("a.txt", "one\n\ntwo")), (Documents{"one\n\ntwo"}));
  EXPECT_EQ(*documents(file("a.txt.gz", gzip("one\r\n"))), (Documents{"one\r\n"}));
  EXPECT_EQ(*documents(file("empty.txt", "")), Documents{});
  const std::string text = long_text(2500000);  // beyond the buffer
  EXPECT_EQ(*documents(file("long.txt", text)), Documents{text});
}

TEST_F(DocumentReaderTest, BlankLinesMayEndDocuments) {
  const DocumentOptions split = {.split_on_blank_lines = true};
  EXPECT_EQ(*documents(file("a.txt", "\n\none\nmore\n \t\r\n\n\ntwo\n\n"), split),
            (Documents{"one\nmore\n", "two\n"}));
  EXPECT_EQ(*documents(file("b.txt", "one\n\ntwo"), split), (Documents{"one\n", "two"}));
  EXPECT_EQ(*documents(file("c.txt", "\n\n"), split), Documents{});
}

TEST_F(DocumentReaderTest, JsonLines) {
  const std::string lines =
      "{\"text\": \"one\\n\\u4e2d\", \"id\": 3}\n\n  \r\n{\"id\": 1, \"text\": \"\"}\n{\"text\": "
      "\"two\"}";
  for (const auto& name : {file("a.jsonl", lines), file("a.ndjson.gz", gzip(lines)),
                           file("a.jsonl.zst", zstd(lines))}) {
    const auto all = documents(name);
    ASSERT_TRUE(all.has_value()) << all.error().to_string();
    EXPECT_EQ(*all, (Documents{"one\n中", "two"}));
  }
  const std::string body = file("b.txt", "{\"body\": \"x\"}\n");
  EXPECT_EQ(*documents(body, {.format = DocumentOptions::Format::jsonl, .text_field = "body"}),
            Documents{"x"});
  EXPECT_EQ(*documents(file("c.jsonl", "{}"), {.format = DocumentOptions::Format::text}),
            Documents{"{}"});
  // Lines beyond the buffer.
  const std::string text(3000000, 'x');
  EXPECT_EQ(*documents(file("long.jsonl", "{\"text\":\"" + text + "\"}\n{\"text\":\"y\"}\n")),
            (Documents{text, "y"}));
}

TEST_F(DocumentReaderTest, ErrorsNameThePlace) {
  const std::pair<std::string, std::string> cases[] = {
      {"{\"text\": \"ok\"}\n{\"text\": 3}\n",
       "a.jsonl: line 2 (byte 15): field \"text\": expected a string, found number"},
      {"{\"body\": \"x\"}\n",
       "a.jsonl: line 1 (byte 0): field \"text\": expected a string, found nothing"},
      {"\n[1]\n", "a.jsonl: line 2 (byte 1): expected an object, found array"},
      {"{\"text\": \"x\"\n", "a.jsonl: line 1 (byte 0): not valid JSON at byte 13"},
      {"{\"text\": \"\xff\"}\n", "a.jsonl: line 1 (byte 0): not valid JSON at byte 10"}};
  for (const auto& [text, message] : cases) {
    const auto all = documents(file("a.jsonl", text));
    ASSERT_FALSE(all.has_value()) << text;
    EXPECT_NE(all.error().message().find(message), std::string::npos) << all.error().message();
  }
  EXPECT_EQ(documents(path("none")).error().code(), StatusCode::not_found);
}

TEST_F(DocumentReaderTest, LongDocumentsAreRefused) {
  DocumentOptions options = {.max_document_bytes = 20};
  EXPECT_TRUE(documents(file("a.txt", std::string(20, 'x')), options).has_value());
  EXPECT_FALSE(documents(file("a.txt", std::string(21, 'x')), options).has_value());
  EXPECT_FALSE(documents(file("a.txt", "1234567890\n1234567890\n"), options).has_value());
  EXPECT_FALSE(documents(file("a.jsonl", "{\"text\":\"1234567890\"}\n"), options).has_value());
  // 100 MB from 10 KB on disk.
  EXPECT_FALSE(
      documents(file("a.txt.zst", zstd(std::string(100000000, 'x'))), options).has_value());
}

}  // namespace
}  // namespace cachalot::data
