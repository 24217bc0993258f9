#include "device/paged_arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/check.h"

namespace cachalot::device {
namespace {

constexpr int64_t kSlabBytes = int64_t{1} << 30;  // address space, not memory
constexpr int64_t kHugePage = int64_t{1} << 21;

int64_t page_bytes() {
  static const int64_t bytes = ::sysconf(_SC_PAGESIZE);
  return bytes;
}

int64_t round_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

// A large array begins with a huge page, so that releasing it splits none of its neighbour's.
int64_t alignment_of(int64_t bytes) { return bytes >= kHugePage ? kHugePage : page_bytes(); }

}  // namespace

int64_t PagedArena::bytes_of(int64_t count) {
  return round_up(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(float)), page_bytes());
}

PagedArena::~PagedArena() {
  free_blocks(given_);
  free_blocks(idle_);
  for (const Slab& slab : slabs_) ::munmap(slab.data, static_cast<size_t>(slab.size));
}

float* PagedArena::allocate(int64_t count) {
  const int64_t bytes = bytes_of(count);
  const int64_t alignment = alignment_of(bytes);
  while (true) {
    if (slab_idx_ == static_cast<int64_t>(slabs_.size())) {
      const int64_t size = std::max(kSlabBytes, round_up(bytes, kHugePage)) + kHugePage;
      void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      CACHALOT_CHECK_MSG(data != MAP_FAILED, "no address space for a slab of activations");
      ::madvise(data, static_cast<size_t>(size), MADV_HUGEPAGE);  // advice: may be refused
      slabs_.push_back({static_cast<char*>(data), size});
    }
    const Slab& slab = slabs_[slab_idx_];
    const auto base = reinterpret_cast<int64_t>(slab.data);
    const int64_t begin = round_up(base + offset_, alignment) - base;
    if (begin + bytes <= slab.size) {
      offset_ = begin + bytes;
      charge(bytes);
      return reinterpret_cast<float*>(slab.data + begin);
    }
    ++slab_idx_;
    offset_ = 0;
  }
}

void PagedArena::release(float* values, int64_t count) {
  const int64_t bytes = bytes_of(count);
  CACHALOT_CHECK(::madvise(values, static_cast<size_t>(bytes), MADV_DONTNEED) == 0);
  CACHALOT_CHECK(::mprotect(values, static_cast<size_t>(bytes), PROT_NONE) == 0);
  charge(-bytes);
}

void PagedArena::restore(float* values, int64_t count) {
  const int64_t bytes = bytes_of(count);
  CACHALOT_CHECK(::mprotect(values, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE) == 0);
  charge(bytes);
}

float* PagedArena::take_block(int64_t count) {
  const int64_t bytes = bytes_of(count);
  charge(bytes);
  for (Blocks* blocks : {&given_, &idle_}) {
    const auto it = blocks->find(bytes);
    if (it == blocks->end() || it->second.empty()) continue;
    float* values = it->second.back();
    it->second.pop_back();
    return values;
  }
  const int64_t alignment = alignment_of(bytes);
  void* data = std::aligned_alloc(static_cast<size_t>(alignment),
                                  static_cast<size_t>(round_up(bytes, alignment)));
  CACHALOT_CHECK_MSG(data != nullptr, "no memory for a block of gradients");
  if (bytes >= kHugePage)
    ::madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // advice: may be refused
  return static_cast<float*>(data);
}

void PagedArena::give_block(float* values, int64_t count) {
  const int64_t bytes = bytes_of(count);
  charge(-bytes);
  given_[bytes].push_back(values);
}

void PagedArena::free_blocks(Blocks& blocks) {
  for (const auto& [bytes, all] : blocks)
    for (float* values : all) std::free(values);
  blocks.clear();
}

void PagedArena::reset_peak() {
  peak_bytes_ = live_bytes_;
  free_blocks(idle_);
  std::swap(idle_, given_);
}

void PagedArena::charge(int64_t num_bytes) {
  live_bytes_ += num_bytes;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
}

int64_t PagedArena::reserved_bytes() const {
  int64_t total = 0;
  for (const Slab& slab : slabs_) total += slab.size;
  return total;
}

int64_t PagedArena::resident_bytes() const {
  int64_t pages = 0;
  for (const Slab& slab : slabs_) {
    std::vector<unsigned char> present(static_cast<size_t>(slab.size / page_bytes()));
    CACHALOT_CHECK(::mincore(slab.data, static_cast<size_t>(slab.size), present.data()) == 0);
    pages += std::count_if(present.begin(), present.end(),
                           [](unsigned char page) { return (page & 1) != 0; });
  }
  return pages * page_bytes();
}

void PagedArena::rewind(Mark mark, int64_t live_bytes) {
  slab_idx_ = mark.slab_idx;
  offset_ = mark.offset;
  charge(-live_bytes);
}

}  // namespace cachalot::device
