// The versions of the matrix product, one table per instruction set, and the task that they share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/isa.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/panel.h"

namespace cachalot::ops {

// Some rows of x against one panel: y[i * y_stride + lane], i < m, lane < width (all lanes, so y
// may be a padded copy). Plain values: code built for one instruction set may not call inline
// functions that other files share.
struct PanelTask {
  const PackedWeight* w;  // with panel_idx, for the reference only
  int64_t panel_idx;
  const std::byte* panel;
  const float* scales;  // fp8
  WeightFormat format;
  MatmulMath math;
  bool has_nan_codes;
  int64_t width;
  // Not 0: the panel is no panel but f32 rows, an input each, so many floats apart, of which
  // input_rows (null: all, in order) names the ones to read. For strips that run() copies.
  int64_t input_stride = 0;
  const int32_t* input_rows = nullptr;
  int64_t first_input = 0;  // of the weight's, for the reference only
  int64_t k;                // padded
  int64_t group;            // inputs that are summed before their scale, or 0
  const void* x;            // prepare_x's output for these m rows
  int64_t m;
  float* y;
  int64_t y_stride;
  bool accumulate;     // f32 math only
  bool round_y;        // for run_task_on_copy(): run() leaves the totals
  int64_t k_block;     // inputs decoded at a time
  std::byte* scratch;  // scratch_bytes(k_block), aligned to 64
};

constexpr int64_t kNeverCopied = int64_t{1} << 30;

struct MatmulKernels {
  PanelKernels panel;
  // Rows of x in the form that run() reads, for products of m rows with weights of this format:
  // out has prepared_x_bytes(format, m, k) bytes, aligned to 64; k is the padded number of inputs,
  // x has num_inputs. x_rows as in matmul.h. bf16 math: x must hold bf16 values.
  int64_t (*prepared_x_bytes)(WeightFormat format, int64_t m, int64_t k);
  void (*prepare_x)(WeightFormat format, MatmulMath math, const float* x, int64_t x_stride,
                    const int32_t* x_rows, int64_t m, int64_t num_inputs, int64_t k, void* out);
  // prepare_x's form for f32 math where row i of the product is column i of x, i < m, over x's
  // first k rows: matmul_backward.h. Null in the reference, whose weight gradient has no product in
  // it.
  void (*prepare_columns)(const float* x, int64_t x_stride, int64_t m, int64_t k, float* out);
  int64_t (*scratch_bytes)(int64_t k_block);
  // From this many rows on run() copies the strips of f32 weights before it multiplies by them.
  int64_t copied_rows;
  void (*run)(const PanelTask& task);
  // to = bf16(from), nearest even: m rows of n, in place or from one place to another.
  void (*round_rows)(const float* from, int64_t from_stride, int64_t m, int64_t n, float* to,
                     int64_t to_stride);
};

// Runs a task whose y has only the first `lanes` lanes of the panel, and rounds y where it says so.
// `copy` has task.m rows of kPanelWidth floats.
void run_task_on_copy(const MatmulKernels& kernels, PanelTask task, int64_t lanes, float* copy);

const MatmulKernels& matmul_kernels(device::Isa isa);
extern const MatmulKernels kMatmulReference, kMatmulAvx2, kMatmulAvx512, kMatmulAvx512Bf16;

}  // namespace cachalot::ops
