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
          "texts/corpus.json", "texts/corpus-00000.tokens", "texts/data.json"})
      write(name, "text\n");
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
  std::vector<std::string> find(const std::vector<std::string>& arguments) {
    std::vector<std::string> full;
    for (const std::string& argument : arguments) full.push_back(path(argument));
    Result<TextFiles> files = find_text_files(full);
    EXPECT_TRUE(files.has_value()) << files.error().message();
    num_passed_over_ = files->num_passed_over;
    for (std::string& file : files->paths) file.erase(0, path("").size());
    return files->paths;
  }
  int64_t num_passed_over_ = 0;
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

TEST_F(TextFilesTest, NothingFoundIsAnError) {
  for (const char* name : {"nowhere", "texts/*.html", "nowhere/*", "texts/.git"}) {
    const std::vector<std::string> one = {path(name)};
    const Result<TextFiles> files = find_text_files(one);
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
