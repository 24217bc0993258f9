#include "data/content_hash.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "data/data_testing.h"

namespace cachalot::data {
namespace {

class ContentHash : public DataFiles {
 protected:
  void SetUp() override {
    DataFiles::SetUp();
    options_ = {.directory = path("hashes"), .min_bytes = 1000};
  }
  void write(const std::string& text) {
    ASSERT_TRUE(write_file_atomically(path("file"), text).ok());
  }
  uint64_t hash() { return content_hash(MappedFile::open(path("file")).value(), options_); }
  int64_t num_kept() {
    int64_t count = 0;
    if (!std::filesystem::exists(options_.directory)) return 0;
    for (const auto& entry : std::filesystem::directory_iterator(options_.directory))
      count += entry.path().extension() == ".hash";
    return count;
  }
  std::string kept_path() {
    for (const auto& entry : std::filesystem::directory_iterator(options_.directory))
      if (entry.path().extension() == ".hash") return entry.path().string();
    return "";
  }

  ContentHashOptions options_;
};

TEST_F(ContentHash, EveryByteCounts) {
  std::string text(2000, 'a');
  write(text);
  const uint64_t first = hash();
  text.back() = 'b';
  write(text);
  EXPECT_NE(hash(), first);
  text.back() = 'a';
  write(text);
  EXPECT_EQ(hash(), first);
}

// What is kept is taken, not computed again, as long as the file is the same.
TEST_F(ContentHash, IsComputedOnceForAFile) {
  write(std::string(2000, 'a'));
  const uint64_t first = hash();
  ASSERT_EQ(num_kept(), 1);
  std::string record = read_text_file(kept_path()).value();
  record.back() = record.back() == '0' ? '1' : '0';
  ASSERT_TRUE(write_file_atomically(kept_path(), record).ok());
  EXPECT_NE(hash(), first);
  // Another time of change, another file.
  ASSERT_EQ(::utimensat(AT_FDCWD, path("file").c_str(), nullptr, 0), 0);
  EXPECT_EQ(hash(), first);
  EXPECT_EQ(num_kept(), 2);
}

TEST_F(ContentHash, ADamagedRecordIsMadeAnew) {
  write(std::string(2000, 'a'));
  const uint64_t first = hash();
  for (const char* damaged : {"", "nothing\n", "2000 bytes"}) {
    ASSERT_TRUE(write_file_atomically(kept_path(), damaged).ok());
    EXPECT_EQ(hash(), first);
  }
  const std::string record = read_text_file(kept_path()).value();
  ASSERT_TRUE(write_file_atomically(kept_path(), record.substr(0, record.size() - 1)).ok());
  EXPECT_EQ(hash(), first);
  EXPECT_EQ(read_text_file(kept_path()).value(), record);
}

TEST_F(ContentHash, SmallFilesAndNoFolderKeepNothing) {
  write(std::string(999, 'a'));
  const uint64_t small = hash();
  EXPECT_EQ(num_kept(), 0);
  options_ = {};
  EXPECT_EQ(hash(), small);
  write("");
  hash();
  // A folder that cannot be made.
  write(std::string(2000, 'a'));
  const uint64_t first = hash();
  options_ = {.directory = path("file") + "/below", .min_bytes = 1000};
  EXPECT_EQ(hash(), first);
}

}  // namespace
}  // namespace cachalot::data
