#include "ops/embed/embed.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "numeric/formats.h"
#include "ops/elementwise/kernel_dispatch.h"
#include "ops/on_gpu.h"

namespace cachalot::ops {
namespace {

template <typename Bits, typename Decode>
void decode_row(const std::byte* row, int64_t d, Decode decode, float* out) {
  for (int64_t i = 0; i < d; ++i) {
    Bits bits;
    std::memcpy(&bits, row + i * static_cast<int64_t>(sizeof(Bits)), sizeof(Bits));
    out[i] = decode(bits);
  }
}

}  // namespace

void embed(device::ExecContext& ctx, const tensor::TensorView& table, const int32_t* ids,
           int64_t rows, float* out) {
  if (ctx.gpu != nullptr) return embed_cuda(ctx, table, ids, rows, out);
  using tensor::DType;
  CACHALOT_CHECK(table.shape.size() == 2);
  CACHALOT_CHECK(table.dtype == DType::f32 || table.dtype == DType::f16 ||
                 table.dtype == DType::bf16);
  const int64_t vocab_size = table.shape[0];
  const int64_t d = table.shape[1];
  const int64_t row_bytes = d * tensor::dtype_bytes(table.dtype);
  for_row_blocks(ctx, rows, d, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      CACHALOT_CHECK(ids[t] >= 0 && ids[t] < vocab_size);
      const std::byte* row = table.data + ids[t] * row_bytes;
      float* y = out + t * d;
      if (table.dtype == DType::f32) {
        std::memcpy(y, row, static_cast<size_t>(row_bytes));
      } else if (table.dtype == DType::bf16) {
        decode_row<uint16_t>(row, d, numeric::float_from_bf16, y);
      } else {
        decode_row<uint16_t>(row, d, numeric::float_from_f16, y);
      }
    }
  });
}

// Threads split the columns, so no two write to one table row's values, however often a token
// occurs. The additions are bound by memory: plain loops.
void embed_backward(device::ExecContext& ctx, const int32_t* ids, const float* d_out, int64_t rows,
                    int64_t vocab_size, int64_t d, float* d_table) {
  for (int64_t t = 0; t < rows; ++t) CACHALOT_CHECK(ids[t] >= 0 && ids[t] < vocab_size);
  constexpr int64_t kColumns = 64;
  ctx.pool->run((d + kColumns - 1) / kColumns, [&](int64_t task, int) {
    const int64_t begin = task * kColumns, end = std::min(d, begin + kColumns);
    for (int64_t t = 0; t < rows; ++t) {
      const float* from = d_out + t * d;
      float* to = d_table + ids[t] * d;
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
    }
  });
}

}  // namespace cachalot::ops
