// Arrays whose memory can be given back and taken again at the same address: address space is
// reserved once, pages come and go. What a tensor-level recompute needs (reference/infrastructure
// 7.4): code that holds the address of a released array goes on holding it. A device's virtual
// memory (reserve, map, unmap) offers the same three steps.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace cachalot::device {

// Arrays are whole pages, released in stack order by rewind(); bytes are counted in whole pages.
// Address space grows by slabs until a step's peak is known and stays there. Contents of a new
// array are unspecified, those of a restored one zero. Blocks, for what comes and goes in no order
// (gradients of the arrays), belong to the same peak. One given back serves the next of its size
// alone, so that more may be held than is alive at the peak; what has served nothing between two
// calls of reset_peak() goes back to the system.
// Errors  out of address space or memory: the process ends (CHECK).
// Threads  one owner.
class PagedArena {
 public:
  PagedArena() = default;
  PagedArena(const PagedArena&) = delete;
  PagedArena& operator=(const PagedArena&) = delete;
  ~PagedArena();

  float* allocate(int64_t count);
  // Gives the pages of an array of allocate() back to the system; until restore() any access to it
  // ends the process.
  void release(float* values, int64_t count);
  void restore(float* values, int64_t count);

  float* take_block(int64_t count);  // contents unspecified
  void give_block(float* values, int64_t count);

  int64_t live_bytes() const {
    return live_bytes_;
  }  // of arrays that are not released, and of blocks
  int64_t peak_bytes() const { return peak_bytes_; }  // the most of them since reset_peak()
  void reset_peak();
  int64_t reserved_bytes() const;  // of address space
  int64_t resident_bytes() const;  // pages that the system has given, of arrays alive or not

  struct Mark {
    int64_t slab_idx;
    int64_t offset;
  };
  Mark mark() const { return {slab_idx_, offset_}; }
  // Forgets all arrays since the mark; live_bytes: of those that are not released.
  void rewind(Mark mark, int64_t live_bytes);

  static int64_t bytes_of(int64_t count);  // what an array counts: whole pages

 private:
  struct Slab {
    char* data;
    int64_t size;
  };
  using Blocks = std::map<int64_t, std::vector<float*>>;  // by bytes
  static void free_blocks(Blocks& blocks);
  void charge(int64_t num_bytes);

  std::vector<Slab> slabs_;
  Blocks given_, idle_;  // given back since reset_peak(), and before it
  int64_t slab_idx_ = 0;
  int64_t offset_ = 0;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace cachalot::device
