// Memory of a device in few pieces: small arrays are cut from larger ones, so that thousands of
// them cost no thousands of the driver's allocations and take no more room than their bytes.
//
// Order   an array may be given out again at once, as the device's one stream of work is in order.
// Threads one owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "base/status.h"

namespace cachalot::device {

class PiecePool {
 public:
  using Take = std::function<Result<std::byte*>(int64_t num_bytes)>;
  using GiveBack = std::function<void(std::byte*)>;
  // What pieces are taken from, aligned to 256 bytes; it outlives the arrays.
  PiecePool(Take take, GiveBack give_back)
      : take_(std::move(take)), give_back_(std::move(give_back)) {}

  // Aligned to 256 bytes, with any content; the source's error.
  Result<std::byte*> allocate(int64_t num_bytes);
  // A piece goes back with its last array.
  void release(std::byte* memory);

 private:
  struct Piece {
    int64_t size;
    std::map<std::byte*, int64_t> free;    // ranges, none of which touch: first byte, size
    std::map<std::byte*, int64_t> arrays;  // likewise
  };
  // An array at the beginning of the range.
  static std::byte* cut(Piece& piece, std::map<std::byte*, int64_t>::iterator range,
                        int64_t num_bytes);

  Take take_;
  GiveBack give_back_;
  std::map<std::byte*, Piece> pieces_;  // by their first byte
};

}  // namespace cachalot::device
