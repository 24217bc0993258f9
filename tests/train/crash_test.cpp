// What is left of a training run when it or the machine stops. This program's own fsync and
// fdatasync take note of what has been synced, and fsync ends the process at a chosen one; its own
// renameat2 is that of a file system without exchange.
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "base/test_data.h"
#include "train/checkpoint_testing.h"
#include "train/run.h"

namespace {

namespace fs = std::filesystem;

// Of every synced directory the names that it then held.
std::map<fs::path, std::set<fs::path>> synced_names;
// Of every file whose data was synced the size that it then had.
std::map<fs::path, uintmax_t> synced_bytes;
int64_t syncs_until_kill = -1;  // -1: not killed
int exchange_error = 0;         // of a file system that cannot exchange names; 0: it can

}  // namespace

// These stand before the C library's.
extern "C" int fsync(int fd) {
  if (syncs_until_kill >= 0 && syncs_until_kill-- == 0) ::raise(SIGKILL);
  const fs::path path = fs::read_symlink("/proc/self/fd/" + std::to_string(fd));
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::directory_iterator(path))
      synced_names[path].insert(entry.path().filename());
  }
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

extern "C" int fdatasync(int fd) {
  const fs::path path = fs::read_symlink("/proc/self/fd/" + std::to_string(fd));
  synced_bytes[path] = fs::file_size(path);
  return static_cast<int>(::syscall(SYS_fdatasync, fd));
}

extern "C" int renameat2(int from_fd, const char* from, int to_fd, const char* to,
                         unsigned int flags) noexcept {
  if ((flags & RENAME_EXCHANGE) != 0 && exchange_error != 0) {
    errno = exchange_error;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_renameat2, from_fd, from, to_fd, to, flags));
}

namespace cachalot::train {
namespace {

class SilentObserver : public RunObserver {
 public:
  void on_step(const StepResult&, const MetricValues&) override {}
  void on_event(int64_t, std::string_view, std::string_view) override {}
};

class CrashTest : public CheckpointFiles {
 protected:
  // A run of small.toml in `run_dir`.
  Status train(const std::string& run_dir, int64_t stop_at_step, RunObserver& observer) {
    const std::vector<uint16_t> ids(20000, 7);
    std::ofstream(path("bytes.bin"), std::ios::binary)
        .write(reinterpret_cast<const char*>(ids.data()),
               static_cast<std::streamsize>(ids.size() * sizeof(ids[0])));
    const std::vector<std::string> files = {test_data("train/small.toml")};
    const std::vector<std::string> keys = {"run_dir=" + run_dir,
                                           "data.0.path=" + path("bytes.bin")};
    const TrainConfig config = read_train_config(files, keys).value();
    ThreadPool pool(1);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, device::machine_isa()};
    return run_training(ctx, config,
                        {.resume = false, .provoked_step = -1, .stop_at_step = stop_at_step},
                        observer)
        .error();
  }
  // True: fn ran to its end; false: it was killed at the sync of this number, counted from 0.
  template <typename F>
  static bool survives(int64_t sync, const F& fn) {
    const pid_t child = ::fork();
    if (child == 0) {
      syncs_until_kill = sync;
      ::_exit(fn() ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : status == 0) << status;
    return WIFEXITED(status);
  }
  std::vector<float> saved_momentum() {
    std::vector<float> momentum(3);
    const std::optional<Checkpoint> newest = open_newest_checkpoint(path("run")).value();
    if (!newest) return {};
    EXPECT_EQ(newest->step(), 1);
    EXPECT_TRUE(newest->restore(parameters_, targets(momentum)).ok());
    return momentum;
  }
};

TEST_F(CrashTest, EveryNameOnTheWayToACheckpointIsSynced) {
  SilentObserver observer;
  const Status status = train(path("runs/today/first/"), 1, observer);
  ASSERT_TRUE(status.ok()) << status.message();

  std::vector<fs::path> needed;
  const fs::path checkpoint = checkpoint_directory(path("runs/today/first"), 1);
  for (const auto& entry : fs::directory_iterator(checkpoint)) needed.push_back(entry.path());
  ASSERT_GE(needed.size(), 6u);
  for (fs::path at = checkpoint; at != folder_; at = at.parent_path()) needed.push_back(at);
  for (const fs::path& name : needed) {
    // A checkpoint's files are written under another name of their directory.
    const bool is_file = name.parent_path() == checkpoint;
    const fs::path directory =
        is_file ? checkpoint.parent_path() / ".aside-new" : name.parent_path();
    EXPECT_TRUE(synced_names[directory].contains(name.filename())) << name;
  }
}

// A checkpoint that outlives a loss of power has the lines of all its steps in the log.
TEST_F(CrashTest, TheLogIsSyncedBeforeACheckpointIsThere) {
  class Watcher : public SilentObserver {
   public:
    explicit Watcher(std::string log) : log_(std::move(log)) {}
    void on_step(const StepResult&, const MetricValues&) override { size_ = fs::file_size(log_); }
    void on_event(int64_t step, std::string_view event, std::string_view) override {
      if (event == "checkpoint") {
        EXPECT_GT(size_, 0u);
        EXPECT_GE(synced_bytes[log_], size_) << step;
        ++num_checkpoints;
      }
    }
    int64_t num_checkpoints = 0;

   private:
    fs::path log_;
    uintmax_t size_ = 0;
  };
  synced_bytes.clear();
  Watcher watcher(path("logged/metrics.jsonl"));
  const Status status = train(path("logged"), 6, watcher);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(watcher.num_checkpoints, 2);
}

// Killed before any of its syncs, a save over a checkpoint of the same step leaves the old one or
// the new one, and so does a recovery that is killed as well.
TEST_F(CrashTest, AKilledReplacementLeavesOneWholeCheckpoint) {
  const std::vector<float> old_momentum = {1, 2, 3}, new_momentum = {4, 5, 6};
  const fs::path checkpoints = fs::path(at(1)).parent_path();
  const fs::path replaced = checkpoints / ".replaced-step-0000000001";
  for (const int error : {0, EINVAL, ENOSYS}) {
    SCOPED_TRACE(error == 0 ? "exchange" : std::strerror(error));
    std::map<std::vector<float>, int64_t> found;
    int64_t between_steps = 0, both = 0;
    bool is_saved = false;
    for (int64_t sync = 0; !is_saved; ++sync) {
      SCOPED_TRACE(sync);
      momentum_ = old_momentum;
      ASSERT_TRUE(save(1).ok());
      is_saved = survives(sync, [&] {
        exchange_error = error;
        momentum_ = new_momentum;
        return save(1).ok();
      });
      between_steps += fs::exists(replaced) && !fs::exists(at(1));
      both += fs::exists(replaced) && fs::exists(at(1));
      (void)survives(0, [&] { return open_newest_checkpoint(path("run")).has_value(); });
      ++found[saved_momentum()];
      for (const auto& entry : fs::directory_iterator(checkpoints))
        EXPECT_EQ(entry.path(), fs::path(at(1)));
    }
    EXPECT_EQ(between_steps, error == 0 ? 0 : 1);
    EXPECT_EQ(both, error == 0 ? 0 : 1);
    EXPECT_EQ(found.size(), 2u);
    EXPECT_GT(found[old_momentum], 10);  // syncs of the files and of their directory
    EXPECT_EQ(found[new_momentum], 2);   // after the last rename, and undisturbed
  }
}

TEST_F(CrashTest, ARefusedExchangeOfAnotherKindIsAnErrorAndKeepsTheOldOne) {
  ASSERT_TRUE(save(1).ok());
  EXPECT_TRUE(survives(-1, [&] {
    exchange_error = EACCES;
    momentum_ = {4, 5, 6};
    const Status status = save(1);
    return status.code() == StatusCode::io_error &&
           status.message().find("exchange") != std::string::npos;
  }));
  EXPECT_EQ(saved_momentum(), (std::vector<float>{1, 2, 3}));
}

}  // namespace
}  // namespace cachalot::train
