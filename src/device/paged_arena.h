// Arrays whose memory can be given back and taken again at the same address: address space is reserved once, pages come and go.
// What a tensor-level recompute needs (infrastructure.md 7.4): code that holds the address of a released array goes on holding it.
// A device's virtual memory (reserve, map, unmap) offers the same three steps.
#pragma once

#include <cstdint>
#include <vector>

namespace cachalot::device {

// Arrays are whole pages, released in stack order by rewind(); bytes are counted in whole pages. Address space grows by slabs until
// a step's peak is known and stays there. Contents of a new array are unspecified, those of a restored one zero.
// Errors  out of address space or memory: the process ends (CHECK).
// Threads  one owner.
class PagedArena {
 public:
  PagedArena() = default;
  PagedArena(const PagedArena&) = delete;
  PagedArena& operator=(const PagedArena&) = delete;
  ~PagedArena();

  float* allocate(int64_t count);
  // Gives the pages of an array of allocate() back to the system; until restore() any access to it ends the process.
  void release(float* values, int64_t count);
  void restore(float* values, int64_t count);

  // Memory of other owners that belongs to the same peak: gradients of the arrays. Negative when it goes.
  void charge(int64_t num_bytes);

  int64_t live_bytes() const { return live_bytes_; }  // allocated and not released, and charged
  int64_t peak_bytes() const { return peak_bytes_; }  // the most of them since reset_peak()
  void reset_peak() { peak_bytes_ = live_bytes_; }
  int64_t reserved_bytes() const;  // of address space
  int64_t resident_bytes() const;  // pages that the system has given, of arrays alive or not

  struct Mark {
    int64_t slab_idx;
    int64_t offset;
  };
  Mark mark() const { return {slab_idx_, offset_}; }
  // Forgets all arrays since the mark, which were live_bytes in sum; none of them is released.
  void rewind(Mark mark, int64_t live_bytes);

  static int64_t bytes_of(int64_t count);  // what an array counts: whole pages

 private:
  struct Slab {
    char* data;
    int64_t size;
  };
  std::vector<Slab> slabs_;
  int64_t slab_idx_ = 0;
  int64_t offset_ = 0;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace cachalot::device
