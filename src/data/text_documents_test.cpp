#include "data/text_documents.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "data/data_testing.h"

namespace cachalot::data {
namespace {

struct Parts {
  std::vector<std::string> trained;
  std::vector<std::string> held_out;
  int64_t num_repeated = 0;
};

class TextDocumentsTest : public DataFiles {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    EXPECT_TRUE(write_file_atomically(path(name), text).ok());
    return path(name);
  }
  static std::string lines(int64_t first, int64_t count) {
    std::string out;
    for (int64_t i = first; i < first + count; ++i) out += "line " + std::to_string(i) + "\n";
    return out;
  }
  static Parts read(const std::vector<std::string>& files, const TextOptions& options) {
    Parts parts;
    TextDocuments documents = TextDocuments::open(files, options).value();
    while (const std::optional<TextPiece> piece = documents.next().value())
      (piece->held_out ? parts.held_out : parts.trained).emplace_back(piece->text);
    parts.num_repeated = documents.num_repeated();
    return parts;
  }
};

TEST_F(TextDocumentsTest, LongOnesAreCutAtLines) {
  const std::string text = lines(0, 100);
  const Parts parts = read({write("a.txt", text)}, {.max_piece_bytes = 200});
  std::string joined;
  for (const std::string& piece : parts.trained) {
    EXPECT_LE(piece.size(), 200u);
    EXPECT_EQ(piece.back(), '\n');
    joined += piece;
  }
  EXPECT_EQ(joined, text);
  EXPECT_GT(parts.trained.size(), 3u);
  EXPECT_TRUE(parts.held_out.empty());
  EXPECT_EQ(read({path("a.txt")}, {}).trained, std::vector<std::string>{text});
}

TEST_F(TextDocumentsTest, OfFewTheLastLinesAreHeldOutWhole) {
  const std::string text = lines(0, 1000);
  const Parts parts = read({write("a.txt", text)}, {.max_piece_bytes = 1000, .hold_out = 0.1});
  ASSERT_EQ(parts.held_out.size(), 1u);
  EXPECT_NEAR(static_cast<double>(parts.held_out[0].size()), 0.1 * text.size(), 10);
  EXPECT_TRUE(parts.held_out[0].starts_with("line "));
  std::string joined;
  for (const std::string& piece : parts.trained) joined += piece;
  EXPECT_EQ(joined + parts.held_out[0], text);
}

TEST_F(TextDocumentsTest, OfManyWholeDocumentsAreHeldOutEvenly) {
  std::vector<std::string> files;
  for (int i = 0; i < 200; ++i)
    files.push_back(write("f" + std::to_string(1000 + i), lines(100 * i, 20 + i % 7)));
  const Parts parts = read(files, {.max_piece_bytes = 100, .hold_out = 0.05});
  EXPECT_GE(parts.held_out.size(), 10u);
  EXPECT_LE(parts.held_out.size(), 11u);  // a little smaller than the mean
  for (const std::string& text : parts.held_out) EXPECT_GT(text.size(), 150u);  // never cut
}

// One document of nearly all bytes is not held out, nor are all the others in its stead.
TEST_F(TextDocumentsTest, AGiantDoesNotTakeTheOthersWithIt) {
  std::vector<std::string> files = {write("0-giant", lines(0, 50000))};
  for (int i = 0; i < 200; ++i)
    files.push_back(write("f" + std::to_string(1000 + i), lines(100000 + 100 * i, 20)));
  const Parts parts = read(files, {.hold_out = 0.05});
  EXPECT_GE(parts.held_out.size(), 8u);
  EXPECT_LE(parts.held_out.size(), 21u);
  EXPECT_GT(parts.trained[0].size(), 400000u);
}

TEST_F(TextDocumentsTest, WhatComesAgainIsLeftOutWhereSomeIsHeldOut) {
  const std::vector<std::string> files = {write("a", lines(0, 50)), write("b", lines(50, 50)),
                                          write("c", lines(0, 50))};
  EXPECT_EQ(read(files, {.hold_out = 0.2}).num_repeated, 1);
  EXPECT_EQ(read(files, {}).trained.size(), 3u);
}

}  // namespace
}  // namespace cachalot::data
