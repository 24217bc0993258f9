// bf16 math with vdpbf16ps: queries and keys as pairs of bf16. What is not a product is the AVX-512
// text.
// GCC 12 takes the undefined pass-through operand of its own unmasked intrinsics for an
// uninitialised variable.
#pragma GCC diagnostic ignored "-Wuninitialized"
#include "ops/attention/vector_avx512.h"
//
#include "ops/attention/pair_tile_avx512bf16.h"
#include "ops/indexer/fp4_keys_avx512bf16.h"
#include "ops/indexer/index_kernels_body.h"

namespace cachalot::ops {
namespace {

int64_t pairs_of(int64_t dim) { return (dim + 1) / 2; }

void prepare_pairs(const float* q, int64_t rows, int64_t dim, float* prepared) {
  for (int64_t r = 0; r < rows; ++r) narrow_row(q + r * dim, dim, prepared + r * pairs_of(dim));
}

// [pair][64 keys]; the rows of bf16 lie in the unused half meanwhile.
void pack_pairs(const float* keys, int64_t stride, int64_t n, int64_t dim, float* panel) {
  const int64_t num_pairs = pairs_of(dim);
  float* rows = panel + kIndexTileKeys * num_pairs;
  for (int64_t i = 0; i < n; ++i) narrow_row(keys + i * stride, dim, rows + i * num_pairs);
  transpose(rows, num_pairs, n, num_pairs, kIndexTileKeys, panel, kIndexTileKeys);
}

void multiply_pairs(const float* queries, int64_t rows, int64_t dim, const float* panel, bool,
                    float* dots) {
  const int64_t num_pairs = pairs_of(dim);
  pair_rows<4>(
      rows, num_pairs,
      [=](int64_t r, int64_t i)
          __attribute__((always_inline)) { return load_pair(queries + r * num_pairs + i); },
      [=](int64_t i, __m512i * regs) __attribute__((always_inline)) {
#pragma GCC unroll 8
        for (int v = 0; v < 4; ++v) {
          regs[v] = _mm512_loadu_si512(panel + i * kIndexTileKeys + v * 16);
        }
      },
      dots, kIndexTileKeys, false);
}

}  // namespace

const IndexKernels kIndexAvx512Bf16 = {prepare_pairs,  pairs_of,       pack_pairs,
                                       pack_fp4_pairs, multiply_pairs, kKernels.reduce,
                                       kKernels.above};

}  // namespace cachalot::ops
