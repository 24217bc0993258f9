// Floats into the panels that the matrix product reads (packed_weight.h): weights that a training
// step makes anew, the inputs of a weight's gradient.
// Panel   f32:  float  p[k * width + lane]
//         bf16: uint16 p[((k / 2) * width + lane) * 2 + k % 2], k padded with a zero to even,
//               rounded to nearest even
//         width in {16, 32, 48, 64}; 64-byte alignment is best. Lanes from n on become zeros.
// Threads  pure functions of their arguments; every version gives the same bytes.
#pragma once

#include <cstdint>

#include "device/isa.h"

namespace cachalot::ops {

struct PanelKernels {
  // lane = row: n <= width rows of k floats.
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
