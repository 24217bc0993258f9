// RUN/tensorboard/events.out.tfevents.NNNNNN.step<S>: a run's values as TensorBoard reads them, one
// file for each start after step S.
// Format  TFRecord: length (8 bytes), masked CRC32C of it (4), the data, masked CRC32C of it (4),
//         all little-endian. Data is a protobuf Event {1: wall_time, 2: step, 3: file_version
//         "brain.Event:2", 5: summary {1: value {1: tag, 2: simple_value}}, 7: session_log {1:
//         status START}}. A START at step S + 1 tells readers to drop what earlier files hold from
//         there on.
// Errors  io_error with the path.
// Threads one owner. Every record reaches the file in one write.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "train/metrics.h"

namespace cachalot::train {

class TensorboardWriter {
 public:
  // A new file in `directory` (made if missing), behind those that are there.
  static Result<TensorboardWriter> open(const std::string& directory, int64_t last_step);

  Status write(int64_t step, const MetricValues& values);
  const std::string& path() const { return path_; }

 private:
  TensorboardWriter(std::string path, Fd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  Status append(std::string_view event);
  std::string path_;
  Fd fd_;
};

// CRC-32C (Castagnoli), and TFRecord's rotation of it.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

}  // namespace cachalot::train
