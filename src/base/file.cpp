#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>

namespace cachalot {
namespace {
Status system_error(const std::string& path, const char* operation) {
  const int error = errno;
  std::string message = fmt::format("{}: {}: {}", path, operation, std::strerror(error));
  if (error == ENOENT) return not_found(std::move(message));
  if (error == ENOSPC || error == EDQUOT || error == ENOMEM) {
    return resource_exhausted(std::move(message));
  }
  return io_error(std::move(message));
}

// Opens a regular file and tells its size.
Result<std::pair<Fd, size_t>> open_regular(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return system_error(path, "open");
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return system_error(path, "stat");
  if (!S_ISREG(info.st_mode)) return invalid_argument(path + ": expected a regular file");
  return std::pair(std::move(fd), static_cast<size_t>(info.st_size));
}
}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(auto opened, open_regular(path));
  const auto& [fd, size] = opened;
  if (size == 0) return MappedFile(path, nullptr, 0);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return system_error(path, "mmap");
  return MappedFile(path, static_cast<const std::byte*>(data), size);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

Result<std::string> read_text_file(const std::string& path, size_t max_bytes) {
  CACHALOT_ASSIGN_OR_RETURN(auto opened, open_regular(path));
  const auto& [fd, size] = opened;
  if (size > max_bytes) {
    return invalid_argument(
        fmt::format("{}: expected at most {} bytes, found {}", path, max_bytes, size));
  }
  std::string text(size, '\0');
  for (size_t done = 0; done < size;) {
    const ssize_t count = ::read(fd.get(), text.data() + done, size - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error(path, "read");
    if (count == 0) {
      return data_loss(
          fmt::format("{}: expected {} bytes, the file ended after {}", path, size, done));
    }
    done += static_cast<size_t>(count);
  }
  return text;
}

namespace {
// Where a chain of links leads, whether anything is there or not.
std::string link_target(const std::string& path) {
  namespace fs = std::filesystem;
  constexpr int kMaxLinks = 40;  // as the kernel's
  fs::path target = path;
  std::error_code error;
  for (int i = 0; i < kMaxLinks && fs::is_symlink(fs::symlink_status(target, error)); ++i) {
    const fs::path next = fs::read_symlink(target, error);
    if (error) break;
    target = next.is_absolute() ? next : target.parent_path() / next;
  }
  return target.string();
}
}  // namespace

std::string_view without_byte_order_mark(std::string_view text) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  return text.starts_with(kByteOrderMark) ? text.substr(kByteOrderMark.size()) : text;
}

Status flush_standard_output() {
  if (std::fflush(stdout) != 0) return system_error("standard output", "write");
  // What failed earlier has left its mark, and the reason at best in a second try.
  std::cout.flush();
  if (std::cout && std::ferror(stdout) == 0) return {};
  if (::write(STDOUT_FILENO, "", 0) != 0) return system_error("standard output", "write");
  return io_error("standard output: expected all of it to be written, found an error");
}

Result<AtomicFile> AtomicFile::create(const std::string& given) {
  struct stat info {};
  const bool exists = ::stat(given.c_str(), &info) == 0;
  if (exists && S_ISDIR(info.st_mode))
    return invalid_argument(given + ": expected a file to write, found a directory");
  if (exists && !S_ISREG(info.st_mode)) {
    Fd device(::open(given.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
    if (device.get() < 0) return system_error(given, "open");
    return AtomicFile(given, "", std::move(device));
  }
  const std::string path = link_target(given);
  std::string temporary = fmt::format("{}.tmp-{}", path, ::getpid());
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (fd.get() < 0) return system_error(path, "create");
  return AtomicFile(path, std::move(temporary), std::move(fd));
}

AtomicFile::~AtomicFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(fd_.get(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error(path_, "write");
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return {};
}

Status AtomicFile::commit() {
  if (temporary_.empty()) return {};
  if (::fsync(fd_.get()) != 0) return system_error(path_, "fsync");
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return system_error(path_, "rename");
  temporary_.clear();
  return sync_directory(std::filesystem::path(path_).parent_path().string());
}

Status sync_directory(const std::string& directory) {
  const std::string path = directory.empty() ? "." : directory;
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0 || ::fsync(fd.get()) != 0) return system_error(path, "sync directory");
  return {};
}

Status create_directories(const std::string& directory) {
  std::error_code error;
  if (std::filesystem::is_directory(directory, error)) return {};
  const std::string parent = std::filesystem::path(directory).parent_path().string();
  if (!parent.empty()) CACHALOT_RETURN_IF_ERROR(create_directories(parent));
  if (::mkdir(directory.c_str(), 0777) != 0) {
    // "a/" is made as the parent of itself.
    if (errno == EEXIST && std::filesystem::is_directory(directory, error)) return {};
    return system_error(directory, "create directory");
  }
  return sync_directory(parent);
}

Result<std::vector<std::string>> list_directory(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error))
    names.push_back(it->path().filename().string());
  if (error) return io_error(fmt::format("{}: list: {}", directory, error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

Status write_file_atomically(const std::string& path, std::span<const std::byte> bytes) {
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  CACHALOT_RETURN_IF_ERROR(file.write(bytes));
  return file.commit();
}

Status write_file_atomically(const std::string& path, std::string_view text) {
  return write_file_atomically(path, std::as_bytes(std::span(text)));
}

}  // namespace cachalot
