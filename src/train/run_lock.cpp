#include "train/run_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace cachalot::train {
namespace {

// The id that stands in the lock's file; its writer may not have come to it yet.
std::string holder_of(int fd) {
  char text[32];
  const ssize_t count = ::pread(fd, text, sizeof text, 0);
  const std::string_view id(text, count > 0 ? static_cast<size_t>(count) : 0);
  const size_t end = id.find_first_not_of("0123456789");
  return end == 0 || id.empty() ? "another process" : fmt::format("process {}", id.substr(0, end));
}

}  // namespace

Result<RunLock> RunLock::acquire(const std::string& directory) {
  const std::string path = directory + "/run.lock";
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (fd.get() < 0) return io_error(fmt::format("{}: open: {}", path, std::strerror(errno)));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK)
      return io_error(fmt::format("{}: lock: {}", path, std::strerror(errno)));
    return invalid_argument(
        fmt::format("{}: expected a directory that no other run writes, found {} at it", directory,
                    holder_of(fd.get())));
  }
  const std::string id = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd.get(), 0) != 0 ||
      ::pwrite(fd.get(), id.data(), id.size(), 0) != static_cast<ssize_t>(id.size()))
    return io_error(fmt::format("{}: write: {}", path, std::strerror(errno)));
  return RunLock(std::move(fd));
}

}  // namespace cachalot::train
