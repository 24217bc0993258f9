#include "device/floats.h"

namespace cachalot::device {
namespace {
constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));

void grow(std::vector<float>& values, int64_t count) {
  if (static_cast<int64_t>(values.size()) < count) values.resize(static_cast<size_t>(count));
}
}  // namespace

void Floats::make_room(int64_t count) {
  if (gpu_ == nullptr) return grow(host_, count);
  if (memory_.size() >= count * kFloatBytes) return;
  memory_ = Buffer();
  memory_ = Buffer::create_scratch(count * kFloatBytes, gpu_);
}

void Floats::assign(const float* values, int64_t count) {
  make_room(count);
  copy_bytes(gpu_, data(), values, count * kFloatBytes);
}

const float* Floats::on_host(int64_t count) {
  if (gpu_ == nullptr) return host_.data();
  grow(host_, count);
  gpu_->copy(host_.data(), memory_.data(), count * kFloatBytes);
  return host_.data();
}

}  // namespace cachalot::device
