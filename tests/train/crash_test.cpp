// What is left of a training run when the machine stops: this program's own fsync takes note of what has been synced.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "data/data_testing.h"
#include "train/checkpoint.h"
#include "train/run.h"

namespace {

namespace fs = std::filesystem;

// Of every synced directory the names that it then held.
std::map<fs::path, std::set<fs::path>> synced_names;

}  // namespace

// Stands before the C library's.
extern "C" int fsync(int fd) {
  const fs::path path = fs::read_symlink("/proc/self/fd/" + std::to_string(fd));
  if (fs::is_directory(path)) {
    for (const auto& entry : fs::directory_iterator(path))
      synced_names[path].insert(entry.path().filename());
  }
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

namespace cachalot::train {
namespace {

class SilentObserver : public RunObserver {
 public:
  void on_step(const StepResult&, const MetricValues&) override {}
  void on_event(int64_t, std::string_view, std::string_view) override {}
};

class CrashTest : public data::DataFiles {};

TEST_F(CrashTest, EveryNameOnTheWayToACheckpointIsSynced) {
  const std::vector<uint16_t> ids(20000, 7);
  std::ofstream(path("bytes.bin"), std::ios::binary)
      .write(reinterpret_cast<const char*>(ids.data()),
             static_cast<std::streamsize>(ids.size() * sizeof(ids[0])));
  const std::vector<std::string> files = {std::string(CACHALOT_TEST_DATA) + "/train/small.toml"};
  const std::vector<std::string> keys = {"run_dir=" + path("runs/today/first/"),
                                         "data.0.path=" + path("bytes.bin")};
  const TrainConfig config = read_train_config(files, keys).value();
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::machine_isa()};
  SilentObserver observer;
  const RunRequest request{.resume = false, .provoked_step = -1, .stop_at_step = 1};
  const Status status = run_training(ctx, config, request, observer);
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

}  // namespace
}  // namespace cachalot::train
