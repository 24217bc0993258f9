#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <vector>

namespace cachalot {
namespace {

namespace fs = std::filesystem;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "cachalot-file-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  std::string contents(const std::string& name) const {
    std::ifstream in(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  size_t num_files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(directory_), {}));
  }

  std::string directory_;
};

// Runs fn in a child process; returns its exit code, or minus the signal that ended it.
int run_in_child(const std::function<int()>& fn) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(fn());
  int state = 0;
  EXPECT_EQ(::waitpid(child, &state, 0), child);
  return WIFEXITED(state) ? WEXITSTATUS(state) : -WTERMSIG(state);
}

TEST_F(FileTest, MapsAWholeFile) {
  const std::string text(100'000, 'x');
  ASSERT_TRUE(write_file_atomically(path("a"), text).ok());
  auto file = MappedFile::open(path("a"));
  ASSERT_TRUE(file.has_value()) << file.error().message();
  EXPECT_EQ(file->path(), path("a"));
  ASSERT_EQ(file->bytes().size(), text.size());
  EXPECT_EQ(std::memcmp(file->bytes().data(), text.data(), text.size()), 0);
}

TEST_F(FileTest, AMappingMovesAndOutlivesTheReplacementOfItsFile) {
  ASSERT_TRUE(write_file_atomically(path("a"), "old").ok());
  auto opened = MappedFile::open(path("a"));
  ASSERT_TRUE(opened.has_value());
  MappedFile moved = *std::move(opened);
  ASSERT_TRUE(write_file_atomically(path("a"), "newer").ok());
  EXPECT_EQ(std::memcmp(moved.bytes().data(), "old", 3), 0);
  EXPECT_EQ(contents("a"), "newer");
  auto other = MappedFile::open(path("a"));
  ASSERT_TRUE(other.has_value());
  moved = *std::move(other);
  EXPECT_EQ(moved.bytes().size(), 5u);
}

TEST_F(FileTest, AnEmptyFileMapsToNoBytes) {
  ASSERT_TRUE(write_file_atomically(path("empty"), "").ok());
  auto file = MappedFile::open(path("empty"));
  ASSERT_TRUE(file.has_value());
  EXPECT_TRUE(file->bytes().empty());
  EXPECT_EQ(*read_text_file(path("empty")), "");
}

TEST_F(FileTest, ErrorsNameThePath) {
  const auto missing = MappedFile::open(path("missing"));
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), StatusCode::not_found);
  EXPECT_NE(missing.error().message().find(path("missing")), std::string::npos);
  EXPECT_EQ(MappedFile::open(directory_).error().code(), StatusCode::invalid_argument);
  EXPECT_EQ(read_text_file("/dev/zero").error().code(), StatusCode::invalid_argument);
  const auto no_folder = AtomicFile::create(path("no/such/folder"));
  EXPECT_EQ(no_folder.error().code(), StatusCode::not_found);
  EXPECT_NE(no_folder.error().message().find(path("no/such/folder") + ":"), std::string::npos)
      << no_folder.error().message();
}

TEST_F(FileTest, ReadTextFileKeepsItsLimit) {
  ASSERT_TRUE(write_file_atomically(path("a"), "12345").ok());
  EXPECT_EQ(*read_text_file(path("a"), 5), "12345");
  const auto refused = read_text_file(path("a"), 4);
  ASSERT_FALSE(refused.has_value());
  EXPECT_NE(refused.error().message().find("at most 4 bytes, found 5"), std::string::npos);
}

TEST_F(FileTest, WithoutCommitTheOldFileStaysAndNothingIsLeft) {
  ASSERT_TRUE(write_file_atomically(path("a"), "old").ok());
  {
    auto file = AtomicFile::create(path("a"));
    ASSERT_TRUE(file.has_value());
    AtomicFile moved = *std::move(file);
    ASSERT_TRUE(moved.write(std::as_bytes(std::span("new", 3))).ok());
    EXPECT_EQ(contents("a"), "old");
  }
  EXPECT_EQ(contents("a"), "old");
  EXPECT_EQ(num_files(), 1u);
}

TEST_F(FileTest, CommitReplacesTheFileAndLeavesNoTemporary) {
  ASSERT_TRUE(write_file_atomically(path("a"), "old").ok());
  auto file = AtomicFile::create(path("a"));
  ASSERT_TRUE(file.has_value());
  ASSERT_TRUE(file->write(std::as_bytes(std::span("new", 3))).ok());
  ASSERT_TRUE(file->write(std::as_bytes(std::span("est", 3))).ok());
  ASSERT_TRUE(file->commit().ok());
  EXPECT_EQ(contents("a"), "newest");
  EXPECT_EQ(num_files(), 1u);
}

TEST_F(FileTest, ALinkStaysAndItsTargetIsWritten) {
  fs::create_directories(path("there"));
  ASSERT_TRUE(write_file_atomically(path("there/a"), "old").ok());
  fs::create_symlink("there/a", path("link"));       // relative to where the link lies
  fs::create_symlink(path("link"), path("second"));  // a chain
  fs::create_symlink(path("there/new"), path("dangling"));
  for (const auto& [link, target] :
       {std::pair("link", "there/a"), {"second", "there/a"}, {"dangling", "there/new"}}) {
    ASSERT_TRUE(write_file_atomically(path(link), link).ok()) << link;
    EXPECT_TRUE(fs::is_symlink(path(link))) << link;
    EXPECT_TRUE(fs::is_regular_file(fs::symlink_status(path(target)))) << link;
    EXPECT_EQ(contents(target), link);
  }
}

TEST_F(FileTest, ADeviceOrAPipeIsWrittenThrough) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  const Fd reader(::open(path("pipe").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  ASSERT_GE(reader.get(), 0);
  ASSERT_TRUE(write_file_atomically(path("pipe"), "through").ok());
  char read[16] = {};
  EXPECT_EQ(::read(reader.get(), read, sizeof read), 7);
  EXPECT_STREQ(read, "through");
  EXPECT_TRUE(fs::is_fifo(path("pipe")));
  EXPECT_EQ(num_files(), 1u);

  EXPECT_EQ(write_file_atomically(directory_, "x").code(), StatusCode::invalid_argument);
}

// One made for the purpose: what replaces it must not be the machine's own.
TEST_F(FileTest, AFullDeviceIsAnError) {
  if (::mknod(path("full").c_str(), S_IFCHR | 0600, ::makedev(1, 7)) != 0 ||
      Fd(::open(path("full").c_str(), O_WRONLY | O_CLOEXEC)).get() < 0)
    GTEST_SKIP() << "cannot make a device here";
  const Status full = write_file_atomically(path("full"), "x");
  EXPECT_EQ(full.code(), StatusCode::resource_exhausted) << full.message();
  EXPECT_NE(full.message().find(path("full")), std::string::npos) << full.message();
  EXPECT_TRUE(fs::is_character_file(path("full")));
  EXPECT_EQ(num_files(), 1u);
}

TEST_F(FileTest, AProcessKilledHalfWayLeavesTheOldFile) {
  ASSERT_TRUE(write_file_atomically(path("a"), "old").ok());
  const int exit = run_in_child([&] {
    auto file = AtomicFile::create(path("a"));
    if (!file || !file->write(std::as_bytes(std::span("ne", 2))).ok()) return 1;
    ::raise(SIGKILL);
    return 0;
  });
  EXPECT_EQ(exit, -SIGKILL);
  EXPECT_EQ(contents("a"), "old");
  ASSERT_TRUE(
      write_file_atomically(path("a"), "next").ok());  // what it left behind is in no one's way
  EXPECT_EQ(contents("a"), "next");
}

// Exit codes of the children below.
constexpr int kKeptTheOldFile = 0, kWrong = 1, kCannotRunHere = 77;

// Replaces "old" by more than there is room for; the error must name the file, and nothing else may
// change.
int overfill(const std::string& directory) {
  const std::string target = directory + "/full";
  const std::vector<std::byte> large(1 << 20);
  if (!write_file_atomically(target, "old").ok()) return kWrong;
  const Status status = write_file_atomically(target, std::span(large));
  if (status.ok() || status.message().find(target) == std::string::npos) return kWrong;
  const auto kept = read_text_file(target);
  const auto files = std::distance(fs::directory_iterator(directory), {});
  return kept.has_value() && *kept == "old" && files == 1 ? kKeptTheOldFile : kWrong;
}

TEST_F(FileTest, AFileSizeLimitKeepsTheOldFile) {
  const int exit = run_in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {65536, 65536};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return kCannotRunHere;
    return overfill(directory_);
  });
  if (exit == kCannotRunHere) GTEST_SKIP() << "cannot limit the file size here";
  EXPECT_EQ(exit, kKeptTheOldFile);
}

TEST_F(FileTest, AFullDiskKeepsTheOldFile) {
  const int exit = run_in_child([&] {
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
      return kCannotRunHere;
    }
    ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
    if (::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=128k") != 0) return kCannotRunHere;
    return overfill(directory_);
  });
  if (exit == kCannotRunHere) GTEST_SKIP() << "cannot mount a small disk here";
  EXPECT_EQ(exit, kKeptTheOldFile);
}

TEST_F(FileTest, DirectoriesAreMadeWithTheirParents) {
  for (const char* name : {"a", "a/b/c", "a/b/c", "d/e/", "f//g"}) {
    ASSERT_TRUE(create_directories(path(name)).ok()) << name;
    EXPECT_TRUE(fs::is_directory(path(name))) << name;
  }
  EXPECT_EQ(list_directory(directory_).value(), (std::vector<std::string>{"a", "d", "f"}));
  EXPECT_EQ(list_directory(path("none")).error().code(), StatusCode::io_error);
  ASSERT_TRUE(write_file_atomically(path("file"), "x").ok());
  for (const char* name : {"file", "file/below"}) {
    const Status status = create_directories(path(name));
    EXPECT_EQ(status.code(), StatusCode::io_error);
    EXPECT_NE(status.message().find(path("file")), std::string::npos);
  }
}

}  // namespace
}  // namespace cachalot
