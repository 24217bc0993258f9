// The matrix product's inner kernel on one panel that lies in scratch memory: attention scores and
// values, indexer scores.
// Panel   f32:  float  p[k * width + lane]
//         bf16: uint16 p[((k / 2) * width + lane) * 2 + k % 2], k padded with a zero to even
//         width in {16, 32, 48, 64}; 64-byte alignment is best.
// Numerics  matmul.h's chains, the same for every version: the product continues the chain that y
//           holds (accumulate) or starts one.
// Threads  pure functions of their arguments.
#pragma once

#include <cstdint>

#include "device/isa.h"
#include "ops/matmul/matmul.h"

namespace cachalot::ops {

struct PanelKernels {
  // Rows of x in the form that the products read: out has prepared_x_bytes(m, k) bytes, aligned to
  // 64. x_rows as in matmul.h. bf16: x must hold bf16 values.
  int64_t (*prepared_x_bytes)(int64_t m, int64_t k);
  void (*prepare_x_f32)(const float* x, int64_t x_stride, const int32_t* x_rows, int64_t m,
                        int64_t k, void* out);
  void (*prepare_x_bf16)(const float* x, int64_t x_stride, const int32_t* x_rows, int64_t m,
                         int64_t k, void* out);

  // y[i * y_stride + lane] (+)= the chain over k of x[i] and the panel, i < m, lane < width. A bf16
  // chain that another call continues must have even k.
  void (*product_f32)(const void* x, int64_t m, int64_t k, const float* panel, int64_t width,
                      float* y, int64_t y_stride, bool accumulate);
  void (*product_bf16)(const void* x, int64_t m, int64_t k, const uint16_t* panel, int64_t width,
                       float* y, int64_t y_stride, bool accumulate);

  // lane = row: n <= width rows of k floats; lanes from n on become zeros. bf16 rounds to nearest
  // even.
  void (*pack_rows_transposed_f32)(const float* rows, int64_t stride, int64_t n, int64_t k,
                                   int64_t width, float* panel);
  void (*pack_rows_transposed_bf16)(const float* rows, int64_t stride, int64_t n, int64_t k,
                                    int64_t width, uint16_t* panel);
  // lane = column: k rows of n <= width floats.
  void (*pack_rows_f32)(const float* rows, int64_t stride, int64_t n, int64_t k, int64_t width,
                        float* panel);
  void (*pack_rows_bf16)(const float* rows, int64_t stride, int64_t n, int64_t k, int64_t width,
                         uint16_t* panel);
};
const PanelKernels& panel_kernels(device::Isa isa);

}  // namespace cachalot::ops
