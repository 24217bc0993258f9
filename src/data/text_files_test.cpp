#include "data/text_files.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "base/file.h"
#include "data/data_testing.h"

namespace cachalot::data {
namespace {

class TextFilesTest : public DataFiles {
 protected:
  void SetUp() override {
    DataFiles::SetUp();
    for (const char* folder : {"texts/deep/er", "texts/.git", "texts/runs/first"})
      std::filesystem::create_directories(path(folder));
    for (const char* name :
         {"texts/b.txt", "texts/a.md", "texts/deep/c.md", "texts/deep/er/d.md", "texts/.hidden.md",
          "texts/.git/config", "texts/runs/first/run.toml", "texts/runs/first/metrics.jsonl",
          "texts/corpus.json", "texts/corpus-00000.tokens"})
      write(name, "text\n");
    write("texts/data.json", "{\"text\": \"words\"}\n");
    write("texts/picture.png", std::string("\x89PNG\0\0", 6));
    write("texts/empty", "");
    gzFile file = ::gzopen(path("texts/z.txt.gz").c_str(), "wb");
    ::gzwrite(file, "packed\n", 7);
    ::gzclose(file);
  }
  void write(const std::string& name, const std::string& text) {
    EXPECT_TRUE(write_file_atomically(path(name), text).ok());
  }
  // Below the folder of the test.
  std::vector<std::string> find(const std::vector<std::string>& arguments,
                                const DocumentOptions& options = {}) {
    std::vector<std::string> full;
    for (const std::string& argument : arguments) full.push_back(path(argument));
    Result<TextFiles> files = find_text_files(full, options);
    EXPECT_TRUE(files.has_value()) << files.error().message();
    num_passed_over_ = files->num_passed_over;
    reasons_ = files->reasons;
    for (std::string& file : files->paths) file.erase(0, path("").size());
    return files->paths;
  }
  int64_t num_passed_over_ = 0;
  std::vector<std::string> reasons_;
};

using Names = std::vector<std::string>;

TEST_F(TextFilesTest, AFolderGivesItsTextsInOrder) {
  EXPECT_EQ(find({"texts"}), (Names{"texts/a.md", "texts/b.txt", "texts/data.json",
                                    "texts/deep/c.md", "texts/deep/er/d.md", "texts/z.txt.gz"}));
  EXPECT_EQ(num_passed_over_, 2);  // the picture and the empty file
}

TEST_F(TextFilesTest, PatternsFit) {
  EXPECT_EQ(find({"texts/*.md"}), Names{"texts/a.md"});
  EXPECT_EQ(find({"texts/**/*.md"}),
            (Names{"texts/a.md", "texts/deep/c.md", "texts/deep/er/d.md"}));
  EXPECT_EQ(find({"texts/d*"}),
            (Names{"texts/data.json", "texts/deep/c.md", "texts/deep/er/d.md"}));
  EXPECT_EQ(find({"texts/[ab].*"}), (Names{"texts/a.md", "texts/b.txt"}));
}

TEST_F(TextFilesTest, NamedFilesAreTakenAsTheyAreAndOnce) {
  EXPECT_EQ(find({"texts/picture.png", "texts/*.md", "texts/a.md"}),
            (Names{"texts/picture.png", "texts/a.md"}));
}

// Settings and other JSON among texts stop nothing; who names such a file, or says how to read it,
// means it.
TEST_F(TextFilesTest, JsonWithoutATextIsPassedOverAndTold) {
  std::filesystem::create_directories(path("mixed"));
  write("mixed/a.txt", "words\n");
  write("mixed/b.jsonl", "{\"text\": \"words\"}\n{\"no\": 1}\n");  // the reader's to tell
  write("mixed/package.json", "{\n \"name\": \"x\"\n}\n");
  write("mixed/lines.jsonl", "{\"content\": \"words\"}\n");
  write("mixed/list.json", "[{\"text\": 7}]");
  write("mixed/torn.json", "{\"text\": \"wo");
  EXPECT_EQ(find({"mixed"}), (Names{"mixed/a.txt", "mixed/b.jsonl"}));
  EXPECT_EQ(num_passed_over_, 4);
  ASSERT_EQ(reasons_.size(), 4u);
  EXPECT_TRUE(reasons_[0].starts_with(
      path("mixed/lines.jsonl") + ": line 1 (byte 0): field \"text\": expected a string, found "))
      << reasons_[0];
  EXPECT_TRUE(reasons_[1].starts_with(path("mixed/list.json") + ": line 1 (byte 1): "));
  EXPECT_TRUE(reasons_[2].starts_with(path("mixed/package.json") + ": line 1 (byte 0): "));
  EXPECT_TRUE(reasons_[3].starts_with(path("mixed/torn.json") + ": line 1 (byte 0): "));

  EXPECT_EQ(find({"mixed/package.json", "mixed/*.txt"}),
            (Names{"mixed/package.json", "mixed/a.txt"}));
  EXPECT_EQ(find({"mixed"}, {.text_field = "content"}),
            (Names{"mixed/a.txt", "mixed/lines.jsonl"}));
  EXPECT_EQ(find({"mixed"}, {.format = DocumentOptions::Format::text}).size(), 6u);
  EXPECT_EQ(find({"mixed"}, {.skip_bad_lines = true}).size(), 6u);

  const std::vector<std::string> only = {path("mixed/l*.json*")};
  const Result<TextFiles> none = find_text_files(only, {});
  ASSERT_FALSE(none.has_value());
  EXPECT_NE(none.error().message().find("mixed/lines.jsonl: line 1"), std::string::npos);
  for (int i = 0; i < 9; ++i) write("mixed/s" + std::to_string(i) + ".json", "{}");
  find({"mixed"});
  EXPECT_EQ(num_passed_over_, 13);
  EXPECT_EQ(reasons_.size(), TextFiles::kMaxReasons);
}

TEST_F(TextFilesTest, NothingFoundIsAnError) {
  for (const char* name : {"nowhere", "texts/*.html", "nowhere/*", "texts/.git"}) {
    const std::vector<std::string> one = {path(name)};
    const Result<TextFiles> files = find_text_files(one, {});
    if (std::string(name) == "texts/.git") {
      EXPECT_TRUE(files.has_value());  // who names a hidden folder means it
    } else {
      ASSERT_FALSE(files.has_value()) << name;
      EXPECT_NE(files.error().message().find(path(name)), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace cachalot::data
