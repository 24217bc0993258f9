// Files: read-only mappings and atomic writes. All errors name the path.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"

namespace cachalot {

// Owns a file descriptor. Move-only.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// A whole file mapped read-only and shared. Move-only; views into bytes() live no longer than it.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Whole text file; refuses more than max_bytes.
Result<std::string> read_text_file(const std::string& path, size_t max_bytes = size_t{1} << 30);

// The text behind a byte order mark in UTF-8, which editors put before it; all of it without one.
std::string_view without_byte_order_mark(std::string_view text);

// What has been printed is where standard output leads, or the reason why not.
Status flush_standard_output();

// Where a writer's bytes go; tests replace it to run out of space or to crash half-way.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual Status write(std::span<const std::byte> bytes) = 0;
};

// Writes `path` so that a reader sees the old file or the whole new one, never a part: the bytes go
// to `path`.tmp-<pid>, are synced, and replace `path` by rename on commit(). Destroyed without
// commit(), it removes what it wrote. Of a symbolic link the target is written, and the link stays.
// A device or a pipe is written to as the bytes come.
class AtomicFile : public Sink {
 public:
  static Result<AtomicFile> create(const std::string& path);
  AtomicFile(AtomicFile&& other) noexcept = default;
  ~AtomicFile() override;
  Status write(std::span<const std::byte> bytes) override;
  Status commit();

 private:
  AtomicFile(std::string path, std::string temporary, Fd fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}
  std::string path_;
  std::string temporary_;  // empty once committed or moved from, and for a device
  Fd fd_;
};

// What has been created, renamed or removed in it survives a crash.
Status sync_directory(const std::string& directory);

// With its parents, where they are missing; every one that is made survives a crash.
Status create_directories(const std::string& directory);

// The names in it, sorted.
Result<std::vector<std::string>> list_directory(const std::string& directory);

Status write_file_atomically(const std::string& path, std::span<const std::byte> bytes);
Status write_file_atomically(const std::string& path, std::string_view text);

}  // namespace cachalot
