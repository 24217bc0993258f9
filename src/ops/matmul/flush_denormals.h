// bf16 math counts denormals as zero, as vdpbf16ps does. Versions without that instruction have the
// processor's flags do it.
#pragma once

#include <xmmintrin.h>

namespace cachalot::ops {
// compiled with each file's own instruction set, so the linker must not merge the copies
namespace {

// While it lives, this thread's results that are denormal become zero; with inputs_too, denormal
// inputs count as zero. The arithmetic must lie behind a call that is not inlined: the compiler
// does not know that the flags change it.
class FlushDenormals {
 public:
  explicit FlushDenormals(bool inputs_too) : saved_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040;
    _mm_setcsr((saved_ & ~kDenormalsAreZero) | kFlushToZero |
               (inputs_too ? kDenormalsAreZero : 0u));
  }
  ~FlushDenormals() { _mm_setcsr(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  unsigned saved_;
};

}  // namespace
}  // namespace cachalot::ops
