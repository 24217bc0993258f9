#include "post/frame_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <chrono>
#include <cstring>

namespace cachalot::post {
namespace {

constexpr int64_t kHeadBytes = 8;

Status failed(const std::string& path, const char* operation) {
  const int error = errno;
  std::string message = fmt::format("{}: {}: {}", path, operation, std::strerror(error));
  const bool is_full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return is_full ? resource_exhausted(std::move(message)) : io_error(std::move(message));
}

uint32_t checksum(std::span<const std::byte> payload, int64_t offset) {
  return static_cast<uint32_t>(
      XXH3_64bits_withSeed(payload.data(), payload.size(), static_cast<XXH64_hash_t>(offset)));
}

// The payload of the frame at `offset`; empty where none stands there.
std::span<const std::byte> frame_at(std::span<const std::byte> bytes, int64_t offset) {
  const std::span<const std::byte> rest = bytes.subspan(static_cast<size_t>(offset));
  uint32_t head[2];
  if (rest.size() < sizeof(head)) return {};
  std::memcpy(head, rest.data(), sizeof(head));
  if (head[0] == 0 || head[0] > kMaxFrameBytes || head[0] > rest.size() - sizeof(head)) return {};
  const std::span<const std::byte> payload = rest.subspan(sizeof(head), head[0]);
  return checksum(payload, offset) == head[1] ? payload : std::span<const std::byte>();
}

}  // namespace

Result<FrameLog> FrameLog::open(const std::string& path, const OnFrame& on_frame) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (fd.get() < 0) return failed(path, "open");
  int64_t size = 0, dropped = 0;
  {
    CACHALOT_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
    const std::span<const std::byte> bytes = file.bytes();
    while (true) {
      const std::span<const std::byte> payload = frame_at(bytes, size);
      if (payload.empty()) break;
      CACHALOT_RETURN_IF_ERROR(on_frame(payload, size));
      size += kHeadBytes + static_cast<int64_t>(payload.size());
    }
    dropped = static_cast<int64_t>(bytes.size()) - size;
  }
  if (dropped > 0 && ::ftruncate(fd.get(), size) != 0) return failed(path, "truncate");
  if (::lseek(fd.get(), size, SEEK_SET) != size) return failed(path, "seek");
  return FrameLog(path, std::move(fd), size, dropped);
}

Status FrameLog::append(std::span<const std::byte> payload) {
  CACHALOT_CHECK(!payload.empty() && payload.size() <= kMaxFrameBytes);
  if (is_broken_) return io_error(path_ + ": an earlier frame is half written: no more are taken");
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const uint32_t head[2] = {static_cast<uint32_t>(payload.size()), checksum(payload, size_)};
  const std::span<const std::byte> head_bytes = std::as_bytes(std::span(head));
  frame_.assign(head_bytes.begin(), head_bytes.end());
  frame_.insert(frame_.end(), payload.begin(), payload.end());
  for (size_t done = 0; done < frame_.size();) {
    const ssize_t count = ::write(fd_.get(), frame_.data() + done, frame_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const Status error = failed(path_, "write");
      is_broken_ =
          ::ftruncate(fd_.get(), size_) != 0 || ::lseek(fd_.get(), size_, SEEK_SET) != size_;
      return error;
    }
    done += static_cast<size_t>(count);
  }
  size_ += static_cast<int64_t>(frame_.size());
  appended_bytes_ += static_cast<int64_t>(frame_.size());
  append_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
  return {};
}

Result<std::vector<std::byte>> FrameLog::read(int64_t offset) const {
  const auto read_all = [&](std::byte* out, size_t size, int64_t at) -> Status {
    for (size_t done = 0; done < size;) {
      const ssize_t count =
          ::pread(fd_.get(), out + done, size - done, at + static_cast<int64_t>(done));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return failed(path_, "read");
      if (count == 0)
        return data_loss(fmt::format("{}: expected a frame at byte {}, found the end", path_, at));
      done += static_cast<size_t>(count);
    }
    return {};
  };
  uint32_t head[2];
  CACHALOT_RETURN_IF_ERROR(read_all(reinterpret_cast<std::byte*>(head), sizeof(head), offset));
  std::vector<std::byte> payload;
  if (head[0] > 0 && head[0] <= kMaxFrameBytes) payload.resize(head[0]);
  CACHALOT_RETURN_IF_ERROR(read_all(payload.data(), payload.size(), offset + kHeadBytes));
  if (!payload.empty() && checksum(payload, offset) == head[1]) return payload;
  return data_loss(
      fmt::format("{}: expected a whole frame at byte {}, found a damaged one", path_, offset));
}

Status FrameLog::sync() {
  if (::fdatasync(fd_.get()) != 0) return failed(path_, "fdatasync");
  return {};
}

}  // namespace cachalot::post
