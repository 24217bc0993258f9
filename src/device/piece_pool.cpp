#include "device/piece_pool.h"

#include <algorithm>

#include "base/check.h"

namespace cachalot::device {
namespace {
constexpr int64_t kPieceBytes = int64_t{256} << 20;
constexpr int64_t kSmallBytes = int64_t{16} << 20;  // larger arrays are pieces themselves
constexpr int64_t kAlignment = 256;
}  // namespace

std::byte* PiecePool::cut(Piece& piece, std::map<std::byte*, int64_t>::iterator range,
                          int64_t num_bytes) {
  const auto [memory, size] = *range;
  piece.free.erase(range);
  if (size > num_bytes) piece.free.emplace(memory + num_bytes, size - num_bytes);
  piece.arrays.emplace(memory, num_bytes);
  return memory;
}

Result<std::byte*> PiecePool::allocate(int64_t num_bytes) {
  const int64_t taken =
      (std::max<int64_t>(num_bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  const bool is_small = taken < kSmallBytes;
  for (auto& [first, piece] : pieces_) {
    if (!is_small) break;
    const auto range =
        std::ranges::find_if(piece.free, [&](const auto& one) { return one.second >= taken; });
    if (range != piece.free.end()) return cut(piece, range, taken);
  }
  int64_t size = is_small ? kPieceBytes : taken;
  Result<std::byte*> memory = take_(size);
  if (!memory && is_small) {  // the last of the memory
    size = taken;
    memory = take_(size);
  }
  if (!memory) return memory;
  Piece& piece = pieces_[*memory];
  piece.size = size;
  return cut(piece, piece.free.emplace(*memory, size).first, taken);
}

void PiecePool::release(std::byte* memory) {
  const auto after = pieces_.upper_bound(memory);
  CACHALOT_CHECK(after != pieces_.begin());
  const auto found = std::prev(after);
  Piece& piece = found->second;
  const auto array = piece.arrays.find(memory);
  CACHALOT_CHECK(array != piece.arrays.end());
  const int64_t size = array->second;
  piece.arrays.erase(array);
  if (piece.arrays.empty()) {
    give_back_(found->first);
    pieces_.erase(found);
    return;
  }
  // Joined with the free ranges beside it.
  auto range = piece.free.emplace(memory, size).first;
  if (const auto next = std::next(range);
      next != piece.free.end() && range->first + range->second == next->first) {
    range->second += next->second;
    piece.free.erase(next);
  }
  if (range == piece.free.begin()) return;
  const auto before = std::prev(range);
  if (before->first + before->second != range->first) return;
  before->second += range->second;
  piece.free.erase(range);
}

}  // namespace cachalot::device
