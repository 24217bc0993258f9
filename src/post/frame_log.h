// An append-only file of checksummed frames, which a kill at any byte leaves readable.
// Layout   docs/formats/rollout_log.md: u32 payload bytes (1 to kMaxFrameBytes), u32 the low half
//          of the XXH3-64 of the payload with the frame's offset as its seed, payload.
// Tail     reading ends at the first frame that is not whole or not what its checksum says; all
//          from there on is cut off when the file is opened to go on.
// Errors   io_error, resource_exhausted (disk full) with the path. An append that fails leaves the
//          file as it was.
// Threads  one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace cachalot::post {

inline constexpr size_t kMaxFrameBytes = size_t{1} << 28;

class FrameLog {
 public:
  using OnFrame = std::function<Status(std::span<const std::byte> payload, int64_t offset)>;

  // Made where it is missing. Shows every frame that is there; an error of on_frame is open()'s.
  static Result<FrameLog> open(const std::string& path, const OnFrame& on_frame);

  // In the file, and so safe from a kill of this process, when it returns. Where a failed append
  // could not be taken back, none is accepted any more.
  Status append(std::span<const std::byte> payload);
  // Whose payload begins at open()'s or next_offset()'s place. Errors: io_error; data_loss where it
  // is not what its checksum says.
  Result<std::vector<std::byte>> read(int64_t offset) const;
  int64_t next_offset() const { return size_; }  // of the next frame
  // What append() has written and taken, in this process.
  int64_t appended_bytes() const { return appended_bytes_; }
  double append_seconds() const { return append_seconds_; }
  // What has been appended outlives a loss of power.
  Status sync();

  const std::string& path() const { return path_; }
  int64_t dropped_bytes() const { return dropped_bytes_; }  // by open()

 private:
  FrameLog(std::string path, Fd fd, int64_t size, int64_t dropped_bytes)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size), dropped_bytes_(dropped_bytes) {}

  std::string path_;
  Fd fd_;
  int64_t size_;
  int64_t dropped_bytes_;
  int64_t appended_bytes_ = 0;
  double append_seconds_ = 0;
  bool is_broken_ = false;
  std::vector<std::byte> frame_;
};

}  // namespace cachalot::post
