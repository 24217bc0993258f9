#include "device/gpu.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace cachalot::device {
namespace {
constexpr int64_t kTableBlockBytes = int64_t{1} << 20;
constexpr int64_t kAlignment = 64;
}  // namespace

void Gpu::begin_tables() {
  wait_for_staging();
  for (TableBlock& block : tables_) block.used = block.copied = 0;
  table_idx_ = 0;
}

void Gpu::release_tables() {
  for (const TableBlock& block : tables_) {
    release_pinned(block.host);
    release(block.device);
  }
  tables_.clear();
}

void* Gpu::table_bytes(int64_t num_bytes) {
  num_bytes = (std::max<int64_t>(num_bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  for (;; ++table_idx_) {
    if (table_idx_ == tables_.size()) {
      const int64_t size = std::max(kTableBlockBytes, num_bytes);
      tables_.push_back({allocate_pinned(size).value(), allocate(size).value(), size, 0, 0});
    }
    TableBlock& block = tables_[table_idx_];
    if (block.used + num_bytes > block.size) continue;
    block.used += num_bytes;
    return block.host + block.used - num_bytes;
  }
}

void Gpu::copy_tables() {
  for (size_t i = 0; i < tables_.size() && i <= table_idx_; ++i) {
    TableBlock& block = tables_[i];
    if (block.copied == block.used) continue;
    copy_staged(block.device + block.copied, block.host + block.copied, block.used - block.copied);
    block.copied = block.used;
  }
}

const std::byte* Gpu::twin_of(const std::byte* host) const {
  if (host == nullptr) return nullptr;
  for (const TableBlock& block : tables_) {
    if (host >= block.host && host < block.host + block.used)
      return block.device + (host - block.host);
  }
  const auto after = constants_.upper_bound(host);
  CACHALOT_CHECK(after != constants_.begin());
  const auto& [first, twin] = *std::prev(after);
  CACHALOT_CHECK(host < first + twin.num_bytes);
  return twin.device + (host - first);
}

ConstantTwins::~ConstantTwins() {
  for (const std::byte* host : added_) {
    const auto found = gpu_->constants_.find(host);
    gpu_->release(found->second.device);
    gpu_->constants_.erase(found);
  }
}

Status ConstantTwins::add_bytes(std::span<const std::byte> host) {
  if (host.empty() || gpu_->constants_.contains(host.data())) return {};
  const auto num_bytes = static_cast<int64_t>(host.size());
  CACHALOT_ASSIGN_OR_RETURN(std::byte * device, gpu_->allocate(num_bytes));
  gpu_->copy(device, host.data(), num_bytes);
  gpu_->constants_.emplace(host.data(), Gpu::Twin{num_bytes, device});
  added_.push_back(host.data());
  return {};
}

void copy_bytes(Gpu* gpu, void* to, const void* from, int64_t num_bytes) {
  if (gpu != nullptr) return gpu->copy(to, from, num_bytes);
  std::memcpy(to, from, static_cast<size_t>(num_bytes));
}

void copy_all(Gpu* gpu, std::span<const Gpu::Copy> copies) {
  if (gpu != nullptr) return gpu->copy_all(copies);
  for (const Gpu::Copy& one : copies) copy_bytes(nullptr, one.to, one.from, one.num_bytes);
}

void clear_bytes(Gpu* gpu, void* to, int64_t num_bytes) {
  if (gpu != nullptr) return gpu->fill(to, 0, num_bytes);
  std::memset(to, 0, static_cast<size_t>(num_bytes));
}

}  // namespace cachalot::device
