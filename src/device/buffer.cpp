#include "device/buffer.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "device/gpu.h"

namespace cachalot::device {
namespace {
constexpr size_t kAlignment = 64;
constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{1} << 21;

// Fresh pages, which the system zeroes when they are first touched, from a huge page's boundary on.
void* map_pages(size_t num_bytes) {
  const size_t mapped = num_bytes + kHugePage;
  void* data = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  auto* begin = static_cast<std::byte*>(data);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) ::munmap(begin, before);
  begin += before;
  const size_t kept = (num_bytes + kPage - 1) / kPage * kPage;
  ::munmap(begin + kept, mapped - before - kept);
  ::madvise(begin, kept, MADV_HUGEPAGE);
  return begin;
}

}  // namespace

Result<Buffer> Buffer::create(int64_t num_bytes, Gpu* gpu) {
  Buffer buffer;
  if (num_bytes <= 0) return buffer;
  if (gpu != nullptr) {
    CACHALOT_ASSIGN_OR_RETURN(buffer.data_, gpu->allocate(num_bytes));
    buffer.size_ = num_bytes;
    buffer.gpu_ = gpu;
    return buffer;
  }
  const auto size = static_cast<size_t>(num_bytes);
  void* data =
      size >= kHugePage
          ? map_pages(size)
          : std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
  if (data == nullptr) {
    return resource_exhausted(
        fmt::format("memory: expected {} free bytes, found fewer", num_bytes));
  }
  if (size < kHugePage) std::memset(data, 0, size);
  buffer.data_ = static_cast<std::byte*>(data);
  buffer.size_ = num_bytes;
  return buffer;
}

Result<Buffer> Buffer::create_pinned(int64_t num_bytes, Gpu* gpu) {
  if (gpu == nullptr || num_bytes <= 0) return create(num_bytes);
  Buffer buffer;
  CACHALOT_ASSIGN_OR_RETURN(buffer.data_, gpu->allocate_pinned(num_bytes));
  std::memset(buffer.data_, 0, static_cast<size_t>(num_bytes));
  buffer.size_ = num_bytes;
  buffer.gpu_ = gpu;
  buffer.is_pinned_ = true;
  return buffer;
}

Buffer Buffer::create_scratch(int64_t num_bytes, Gpu* gpu) {
  Result<Buffer> buffer = create(num_bytes, gpu);
  if (buffer || gpu == nullptr) return std::move(buffer).value();
  gpu->shortage_ = buffer.error();
  return create_pinned(num_bytes, gpu).value();
}

Buffer::Buffer(int64_t num_bytes) { *this = create(num_bytes).value(); }

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      gpu_(std::exchange(other.gpu_, nullptr)),
      is_pinned_(std::exchange(other.is_pinned_, false)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(gpu_, other.gpu_);
  std::swap(is_pinned_, other.is_pinned_);
  return *this;
}

Buffer::~Buffer() {
  if (gpu_ != nullptr) {
    is_pinned_ ? gpu_->release_pinned(data_) : gpu_->release(data_);
  } else if (static_cast<size_t>(size_) >= kHugePage) {
    ::munmap(data_, static_cast<size_t>(size_));
  } else {
    std::free(data_);
  }
}

void* Arena::allocate_bytes(int64_t num_bytes) {
  constexpr auto kStep = static_cast<int64_t>(kAlignment);
  num_bytes = (std::max<int64_t>(num_bytes, 1) + kStep - 1) / kStep * kStep;
  while (true) {
    if (block_idx_ == blocks_.size())
      blocks_.push_back(Buffer::create_scratch(std::max(block_bytes_, num_bytes), gpu_));
    Buffer& block = blocks_[block_idx_];
    if (offset_ + num_bytes <= block.size()) {
      void* data = block.data() + offset_;
      offset_ += num_bytes;
      return data;
    }
    ++block_idx_;
    offset_ = 0;
  }
}

void Arena::give_back() {
  CACHALOT_CHECK(block_idx_ == 0 && offset_ == 0);
  blocks_.clear();
}

int64_t Arena::reserved_bytes() const {
  int64_t total = 0;
  for (const Buffer& block : blocks_) total += block.size();
  return total;
}

}  // namespace cachalot::device
