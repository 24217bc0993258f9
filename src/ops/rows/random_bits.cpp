#include "ops/rows/random_bits.h"

#include <algorithm>
#include <cstring>

namespace cachalot::ops {

void random_bits(device::ExecContext& ctx, const RandomBits& p) {
  if (p.num_words == 0) return;
  if (ctx.gpu != nullptr) return random_bits_cuda(ctx, p);
  constexpr int64_t kBlockWords = int64_t{1} << 16;
  ctx.pool->run((p.num_words + kBlockWords - 1) / kBlockWords, [&](int64_t block, int) {
    const int64_t first = block * kBlockWords, end = std::min(p.num_words, first + kBlockWords);
    for (int64_t i = first; i < end; ++i) {
      const uint64_t word = p.word(i);
      std::memcpy(p.to + 8 * i, &word, 8);
    }
  });
}

}  // namespace cachalot::ops
