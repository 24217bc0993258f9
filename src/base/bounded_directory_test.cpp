#include "base/bounded_directory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace cachalot {
namespace {

namespace fs = std::filesystem;

class BoundedDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "cachalot-bounded-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    parent_ = pattern;
    path_ = parent_ + "/a/b";
  }
  void TearDown() override { fs::remove_all(parent_); }

  static Status fill(const BoundedDirectory& directory, const std::string& name, size_t size) {
    return directory.write(name, static_cast<int64_t>(size), [&](Sink& sink) {
      const std::string text(size, 'x');
      return sink.write(std::as_bytes(std::span(text)));
    });
  }
  bool has(const std::string& name) const { return fs::exists(path_ + "/" + name); }
  void age(const std::string& name, int hours) const {
    fs::last_write_time(path_ + "/" + name,
                        fs::file_time_type::clock::now() - std::chrono::hours(hours));
  }

  std::string parent_, path_;
};

TEST_F(BoundedDirectoryTest, TheLeastRecentlyUsedGoWhereTheBytesDoNotFit) {
  const BoundedDirectory directory(path_, 1000);
  for (const char* name : {"first", "second", "third"})
    ASSERT_TRUE(fill(directory, name, 300).ok());
  age("first", 3), age("second", 2), age("third", 1);
  directory.mark_used("first");
  ASSERT_TRUE(fill(directory, "fourth", 300).ok());
  EXPECT_TRUE(has("first") && has("third") && has("fourth"));
  EXPECT_FALSE(has("second"));
  ASSERT_TRUE(fill(directory, "fourth", 400).ok());  // in its own place
  EXPECT_TRUE(has("first") && has("third"));
  ASSERT_TRUE(fill(directory, "large", 1000).ok());
  EXPECT_TRUE(has("large"));
  EXPECT_FALSE(has("first") || has("third") || has("fourth"));
  EXPECT_EQ(fill(directory, "larger", 1001).code(), StatusCode::resource_exhausted);
  EXPECT_TRUE(has("large"));
}

TEST_F(BoundedDirectoryTest, OneWriterAtATimeAndWhatADeadOneLeftIsRemoved) {
  const BoundedDirectory directory(path_, 1000);
  ASSERT_TRUE(fill(directory, "a", 10).ok());
  {
    const Fd other(::open((path_ + "/lock").c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(::flock(other.get(), LOCK_EX), 0);
    std::ofstream(path_ + "/b.tmp-1") << "half";
    EXPECT_EQ(fill(directory, "b", 10).code(), StatusCode::cancelled);
    EXPECT_FALSE(has("b"));
    EXPECT_TRUE(has("b.tmp-1"));
  }
  EXPECT_TRUE(fill(directory, "b", 10).ok());
  EXPECT_TRUE(has("a") && has("b"));
  EXPECT_FALSE(has("b.tmp-1"));
}

TEST_F(BoundedDirectoryTest, AWriterThatFailsLeavesTheOldFile) {
  const BoundedDirectory directory(path_, 1000);
  ASSERT_TRUE(fill(directory, "a", 10).ok());
  const Status failed = directory.write("a", 20, [](Sink& sink) -> Status {
    const std::string text(20, 'y');
    CACHALOT_RETURN_IF_ERROR(sink.write(std::as_bytes(std::span(text))));
    return data_loss("half-way");
  });
  EXPECT_EQ(failed.code(), StatusCode::data_loss);
  EXPECT_EQ(fs::file_size(path_ + "/a"), 10u);
  EXPECT_EQ(std::distance(fs::directory_iterator(path_), {}), 2);  // and the lock
}

TEST_F(BoundedDirectoryTest, WhereNothingCanBeWrittenAndWhatNoDiskHoldsAreErrors) {
  std::ofstream(parent_ + "/file") << "in the way";
  EXPECT_EQ(fill(BoundedDirectory(parent_ + "/file/a", 1000), "a", 10).code(),
            StatusCode::io_error);
  const BoundedDirectory huge(path_, int64_t{1} << 62);
  const Status full = huge.write("a", int64_t{1} << 61, [](Sink&) { return Status(); });
  EXPECT_EQ(full.code(), StatusCode::resource_exhausted);
  EXPECT_NE(full.message().find("free bytes"), std::string::npos) << full.message();
  EXPECT_FALSE(has("a"));
}

}  // namespace
}  // namespace cachalot
