// Frames of rollout logs on their way from a worker to its trainer, and back to another worker.
// Bytes   of each frame: i64 lease, i64 place (how many frames came before it under this lease),
//         u32 size, the payload (post/rollout_log.h). Little-endian.
// Errors  data_loss for bytes that are no such row of frames.
// Threads any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace cachalot::rollout {

struct SentFrame {
  int64_t lease = 0;
  int64_t place = 0;
  std::span<const std::byte> payload;  // of the batch's bytes
};

void put_frame(std::string& batch, int64_t lease, int64_t place,
               std::span<const std::byte> payload);
Result<std::vector<SentFrame>> frames_of_batch(std::string_view batch);

}  // namespace cachalot::rollout
