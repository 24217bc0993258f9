#include "ops/elementwise/element_kernel.cuh"
#include "ops/embed/embed.h"
#include "ops/on_gpu.h"
#include "tile/convert.cuh"

namespace cachalot::ops {
namespace {

// An id outside the table, a caller's bug, gives NaN.
template <tensor::DType kType>
struct EmbedRows {
  const std::byte* table;
  int64_t vocab_size;
  int64_t d;
  const int32_t* ids;
  float* out;

  __device__ void operator()(int64_t row, int64_t column) const {
    const int64_t id = ids[row];
    out[row * d + column] =
        id >= 0 && id < vocab_size ? value(id * d + column) : __uint_as_float(0x7FC00000u);
  }

 private:
  __device__ float value(int64_t at) const {
    if constexpr (kType == tensor::DType::f32) {
      return reinterpret_cast<const float*>(table)[at];
    } else {
      const uint16_t bits = reinterpret_cast<const uint16_t*>(table)[at];
      return kType == tensor::DType::bf16 ? tile::low_bf16(bits) : tile::float_from_f16(bits);
    }
  }
};

template <tensor::DType kType>
void launch_embed(device::ExecContext& ctx, const tensor::TensorView& table, const int32_t* ids,
                  int64_t rows, float* out) {
  launch_elements(ctx, rows, table.shape[1],
                  EmbedRows<kType>{ctx.gpu->on_device(table.data), table.shape[0], table.shape[1],
                                   ctx.gpu->on_device(ids), out});
}

}  // namespace

void embed_cuda(device::ExecContext& ctx, const tensor::TensorView& table, const int32_t* ids,
                int64_t rows, float* out) {
  switch (table.dtype) {
    case tensor::DType::f32: return launch_embed<tensor::DType::f32>(ctx, table, ids, rows, out);
    case tensor::DType::f16: return launch_embed<tensor::DType::f16>(ctx, table, ids, rows, out);
    default: return launch_embed<tensor::DType::bf16>(ctx, table, ids, rows, out);
  }
}

}  // namespace cachalot::ops
