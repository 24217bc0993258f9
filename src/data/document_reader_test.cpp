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

// As `zstd --long=N` writes it from a pipe: the frame says its window, not its size.
std::string zstd_with_window(std::string_view text, int window_log) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  std::string out(ZSTD_compressBound(text.size()) + 64, '\0');
  ZSTD_inBuffer in = {text.data(), text.size(), 0};
  ZSTD_outBuffer to = {out.data(), out.size(), 0};
  EXPECT_FALSE(ZSTD_isError(ZSTD_compressStream2(context, &to, &in, ZSTD_e_flush)));
  EXPECT_EQ(ZSTD_compressStream2(context, &to, &in, ZSTD_e_end), 0u);
  ZSTD_freeCCtx(context);
  out.resize(to.pos);
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
  }
}

TEST_F(DocumentReaderTest, ContentSaysWhetherAFileIsCompressed) {
  const std::string text = long_text(400);
  for (const auto& [name, bytes] : {std::pair("unpacked.gz", text),
                                    {"unpacked.zst", text},
                                    {"x.txt", gzip(text)},
                                    {"x", zstd(text)},
                                    {"x.zstd", zstd(text)}}) {
    const auto all = stream(file(name, bytes), 512);
    ASSERT_TRUE(all.has_value()) << all.error().to_string();
    EXPECT_EQ(*all, text) << name;
  }
}

// Block devices and tapes get whole blocks.
TEST_F(DocumentReaderTest, ZerosBehindAGzipMemberArePadding) {
  const std::string zeros(700, '\0');
  for (const size_t piece : {1, 5, 512}) {
    EXPECT_EQ(*stream(file("x.gz", gzip("one") + zeros), piece), "one");
    EXPECT_EQ(*stream(file("x.gz", gzip("one") + zeros + gzip("two") + zeros), piece), "onetwo");
  }
  const std::string whole = gzip("one");
  EXPECT_FALSE(stream(file("x.gz", zeros), 512).has_value());
  EXPECT_FALSE(stream(file("x.gz", whole.substr(0, whole.size() - 5) + zeros), 512).has_value());
  EXPECT_FALSE(stream(file("x.gz", whole + zeros + "tail"), 512).has_value());
}

TEST_F(DocumentReaderTest, LongZstdWindowsAreRead) {
  for (const int window_log : {27, 28, ZSTD_cParam_getBounds(ZSTD_c_windowLog).upperBound}) {
    const auto all = stream(file("x.zst", zstd_with_window("one\n", window_log)), 512);
    ASSERT_TRUE(all.has_value()) << all.error().to_string();
    EXPECT_EQ(*all, "one\n");
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

TEST_F(DocumentReaderTest, ContentSaysWhatIsJson) {
  const std::string one = "{\"text\": \"one\", \"id\": 0}", two = "{\"id\": 1, \"text\": \"two\"}";
  const std::string spread = "{\n  \"text\": \"one\",\n  \"meta\": {\"text\": [\"{\", 1.5e3]}\n}";
  const Documents both = {"one", "two"};
  for (const std::string name : {"a.json", "A.JSONL", "a.txt", "a", "a.json.gz", "a.jsonl.zstd"}) {
    EXPECT_EQ(*documents(file(name, one + "\n" + two + "\n")), both) << name;
    EXPECT_EQ(*documents(file(name, zstd("\n" + one + "\r\n" + two))), both) << name;
    EXPECT_EQ(*documents(file(name, spread + "\n" + two)), both) << name;
    EXPECT_EQ(*documents(file(name, one + two)), both) << name;
    EXPECT_EQ(*documents(file(name, "[" + spread + ", \n" + two + "]\n")), both) << name;
  }
  // Longer than the buffer, as lines, as an array and spread over lines.
  const std::string text(2500000, 'x');
  for (const std::string& bytes :
       {"{\"text\":\"" + text + "\"}\n" + two, "[{\"text\":\"" + text + "\"}\n," + two + "]",
        "{\n\"text\":\"" + text + "\"\n}" + two})
    EXPECT_EQ(*documents(file("long", bytes)), (Documents{text, "two"}));

  for (const std::string prose : {"{ int x = 1; }\n", "{\"a\": 1} and more\n", "[1] a note\n",
                                  "[{not JSON}]\n", "{\"text\":", "{{ template }}\n"})
    EXPECT_EQ(*documents(file("a.txt", prose)), Documents{prose});
  const DocumentOptions as_text = {.format = DocumentOptions::Format::text};
  EXPECT_EQ(*documents(file("a.json", one), as_text), Documents{one});
}

TEST_F(DocumentReaderTest, WhatIsNoTextIsRefusedByName) {
  const std::pair<std::string, std::string> cases[] = {
      {"\xFF\xFEo\0n\0e\0", "UTF-16"},
      {std::string("\xFD"
                   "7zXZ\0\0",
                   7),
       "xz data"},
      {"BZh91AY&SY....", "bzip2"},
      {"PAR1....", "Parquet"},
      {std::string("o\0n\0e\0", 6), "binary"},
      {std::string(257, 'x') + "ustar", "tar archive"}};
  for (const auto& [bytes, kind] : cases) {
    for (const std::string& stored : {bytes, gzip(bytes)}) {
      const auto all = documents(file("a.txt", stored));
      ASSERT_FALSE(all.has_value()) << kind;
      EXPECT_EQ(all.error().code(), StatusCode::unsupported);
      EXPECT_NE(all.error().message().find("a.txt: "), std::string::npos);
      EXPECT_NE(all.error().message().find(kind), std::string::npos) << all.error().message();
    }
  }
  for (const std::string& bytes :
       {std::string("plain text\n"), std::string("[1, 2]\n"), std::string("{\"body\": \"x\"}\n")}) {
    const auto all = documents(file("a.json", bytes));
    ASSERT_FALSE(all.has_value()) << bytes;
    EXPECT_NE(all.error().message().find("--format text"), std::string::npos)
        << all.error().message();
  }
  const DocumentOptions as_text = {.format = DocumentOptions::Format::text};
  EXPECT_EQ(*documents(file("a", "a\xFF"), as_text), Documents{"a\xFF"});
}

TEST_F(DocumentReaderTest, AByteOrderMarkIsNoText) {
  const std::string mark = "\xEF\xBB\xBF", line = "{\"text\": \"one\"}\n";
  EXPECT_EQ(*documents(file("a.txt", mark + "one" + mark)), Documents{"one" + mark});
  EXPECT_EQ(*documents(file("a.txt", mark)), Documents{});
  EXPECT_EQ(*documents(file("a.jsonl", gzip(mark + line))), Documents{"one"});
  EXPECT_EQ(*documents(file("a.json", mark + "[" + line + "]")), Documents{"one"});
  const auto all = documents(file("a.jsonl", mark + line + "{}\n"));
  EXPECT_NE(all.error().message().find("line 2 (byte 19)"), std::string::npos)
      << all.error().message();
}

TEST_F(DocumentReaderTest, WhatStandsBesideTheTextIsNoMatter) {
  for (const std::string beside : {"NaN", "-Infinity", "[Infinity, {\"text\": NaN}]", "\"\\ud83d\"",
                                   "1e999", "\"\xFF\"", "-0.5E+3", "\"\\\\\"", "\"\\\"\""}) {
    const auto all = documents(
        file("a.jsonl", "{\"b\": " + beside + ", \"text\": \"one\", \"a\": " + beside + "}\n"));
    ASSERT_TRUE(all.has_value()) << all.error().to_string();
    EXPECT_EQ(*all, Documents{"one"}) << beside;
  }
  for (const std::string odd : {"nan", "01", "1.", "--1", "'x'", "{1: 2}", "[1 2]", "[1}", "tru"})
    EXPECT_FALSE(
        documents(file("a.jsonl", "{\"b\": " + odd + ", \"text\": \"one\"}\n")).has_value())
        << odd;
  EXPECT_EQ(
      *documents(file("a.jsonl", "{\"t\\u0065xt\": \"one\"}\n{\"text\": 1, \"text\": \"b\"}")),
      (Documents{"one", "b"}));
  std::string deep(100000, '[');
  EXPECT_FALSE(documents(file("a.jsonl", "{\"b\": " + deep)).has_value());
}

TEST_F(DocumentReaderTest, BadLinesMayBeSkipped) {
  const std::string lines =
      "{\"text\": \"one\"}\n{\"text\": null}\n{\"text\": \"\\ud83d\"}\n{\"text\": "
      "\"x\"\n[3]\nnot\n{}\n"
      "{\"text\": \"\"}\n{\"text\": \"two\"}\n";
  EXPECT_FALSE(documents(file("a.jsonl", lines)).has_value());
  auto reader = DocumentReader::open(file("a.jsonl", lines), {.skip_bad_lines = true});
  Documents all;
  std::string document;
  for (auto more = reader->next(&document); *more; more = reader->next(&document))
    all.push_back(document);
  EXPECT_EQ(all, (Documents{"one", "two"}));
  EXPECT_EQ(reader->skipped().count, 6);
  ASSERT_EQ(reader->skipped().reasons.size(), SkippedLines::kMaxReasons);
  EXPECT_NE(reader->skipped().reasons[1].find("a.jsonl: line 3 (byte 40)"), std::string::npos)
      << reader->skipped().reasons[1];
  // Values over several lines: one without a text is passed over, a broken one is an error.
  const std::string values = "[{\"text\": null}, {\"text\": \"one\"}]";
  EXPECT_EQ(*documents(file("a.json", values), {.skip_bad_lines = true}), Documents{"one"});
}

TEST_F(DocumentReaderTest, ErrorsNameThePlace) {
  const std::pair<std::string, std::string> cases[] = {
      {"{\"text\": \"ok\"}\n{\"text\": 3}\n",
       "a.jsonl: line 2 (byte 15): field \"text\": expected a string, found number"},
      {"{\"body\": \"x\"}\n",
       "a.jsonl: line 1 (byte 0): field \"text\": expected a string, found nothing"},
      {"\n[1]\n", "a.jsonl: line 2 (byte 1): expected an object, found array"},
      {"{\"text\": \"x\"\n", "a.jsonl: line 1 (byte 0): not valid JSON at byte 13"},
      {"{\"text\": \"\xff\"}\n", "a.jsonl: line 1 (byte 9): not valid JSON at byte 1"}};
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
