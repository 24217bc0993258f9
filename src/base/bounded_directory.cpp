#include "base/bounded_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

namespace cachalot {
namespace {

namespace fs = std::filesystem;

constexpr char kLockName[] = "lock";

struct Kept {
  std::string path;
  int64_t num_bytes;
  int64_t used;  // nanoseconds
};

Status check_disk(const std::string& directory, int64_t num_bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(directory, error);
  if (error) return io_error(fmt::format("{}: free space: {}", directory, error.message()));
  const int64_t free =
      static_cast<int64_t>(space.available) - static_cast<int64_t>(space.capacity / 20);
  if (num_bytes <= free) return {};
  return resource_exhausted(
      fmt::format("{}: expected {} free bytes beside a twentieth of the disk, found {}", directory,
                  num_bytes, std::max<int64_t>(free, 0)));
}

}  // namespace

void BoundedDirectory::mark_used(const std::string& name) const {
  ::utimensat(AT_FDCWD, path_of(name).c_str(), nullptr, 0);
}

Status BoundedDirectory::make_room(const std::string& name, int64_t num_bytes) const {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(path_));
  std::vector<Kept> others;
  int64_t total = num_bytes;
  for (const std::string& other : names) {
    struct stat info {};
    const std::string path = path_of(other);
    if (other == kLockName || ::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    if (other.find(".tmp-") != std::string::npos) {  // its writer is gone: we hold the lock
      ::unlink(path.c_str());
    } else if (other != name) {
      others.push_back(
          {path, info.st_size, info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec});
      total += info.st_size;
    }
  }
  std::sort(others.begin(), others.end(),
            [](const Kept& a, const Kept& b) { return a.used < b.used; });
  for (const Kept& oldest : others) {
    if (total <= max_bytes_) break;
    if (::unlink(oldest.path.c_str()) == 0) total -= oldest.num_bytes;
  }
  return check_disk(path_, num_bytes);
}

Status BoundedDirectory::write(const std::string& name, int64_t num_bytes,
                               const std::function<Status(Sink&)>& write) const {
  if (num_bytes > max_bytes_) {
    return resource_exhausted(fmt::format("{}: expected at most {} bytes, found {}", path_of(name),
                                          max_bytes_, num_bytes));
  }
  CACHALOT_RETURN_IF_ERROR(create_directories(path_));
  const Fd lock(::open(path_of(kLockName).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock.get() < 0)
    return io_error(fmt::format("{}: open: {}", path_of(kLockName), std::strerror(errno)));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return cancelled(path_ + ": another process is writing there");
  CACHALOT_RETURN_IF_ERROR(make_room(name, num_bytes));
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path_of(name)));
  CACHALOT_RETURN_IF_ERROR(write(file));
  return file.commit();
}

}  // namespace cachalot
