#include "rollout/frame_batch.h"

#include <fmt/format.h>

#include <cstring>

namespace cachalot::rollout {
namespace {

constexpr size_t kHeadBytes = 20;

}  // namespace

void put_frame(std::string& batch, int64_t lease, int64_t place,
               std::span<const std::byte> payload) {
  const auto size = static_cast<uint32_t>(payload.size());
  char head[kHeadBytes];
  std::memcpy(head, &lease, 8);
  std::memcpy(head + 8, &place, 8);
  std::memcpy(head + 16, &size, 4);
  batch.append(head, kHeadBytes);
  batch.append(reinterpret_cast<const char*>(payload.data()), payload.size());
}

Result<std::vector<SentFrame>> frames_of_batch(std::string_view batch) {
  std::vector<SentFrame> frames;
  for (size_t at = 0; at < batch.size();) {
    SentFrame& frame = frames.emplace_back();
    uint32_t size = 0;
    const size_t left = batch.size() - at;
    if (left >= kHeadBytes) {
      std::memcpy(&frame.lease, batch.data() + at, 8);
      std::memcpy(&frame.place, batch.data() + at + 8, 8);
      std::memcpy(&size, batch.data() + at + 16, 4);
    }
    if (left < kHeadBytes || size == 0 || size > left - kHeadBytes) {
      return data_loss(fmt::format("frames: expected a whole one at byte {} of {}, found none", at,
                                   batch.size()));
    }
    frame.payload = std::as_bytes(std::span(batch).subspan(at + kHeadBytes, size));
    at += kHeadBytes + size;
  }
  return frames;
}

}  // namespace cachalot::rollout
