// The definition: plain loops over the chains of matmul.h.
#include <algorithm>
#include <cmath>
#include <optional>

#include "numeric/formats.h"
#include "ops/matmul/flush_denormals.h"
#include "ops/matmul/matmul_kernels.h"
#include "ops/matmul/round_simd.h"

namespace cachalot::ops {
namespace {

// Results are flushed by the processor too: its rule for results that round up to the smallest
// normal float is the one that counts.
float without_denormal(float value) {
  return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value;
}

// The chain over inputs [begin, end), end - begin even in bf16 math. x(k) and w(k) give floats.
template <typename X, typename W>
float chain(float acc, int64_t begin, int64_t end, MatmulMath math, X x, W w) {
  if (math == MatmulMath::f32) {
    for (int64_t k = begin; k < end; ++k) acc = std::fma(x(k), w(k), acc);
    return acc;
  }
  auto step = [&](int64_t k) {
    acc = without_denormal(std::fma(without_denormal(x(k)), without_denormal(w(k)), acc));
  };
  for (int64_t k = begin; k < end; k += 2) {
    step(k + 1);
    step(k);
  }
  return acc;
}

// Of k inputs, from first on.
float output(const PackedWeight& w, int64_t row, int64_t first, int64_t k, MatmulMath math,
             const float* x, float total) {
  auto input = [&](int64_t i) { return x[i]; };
  auto weight = [&](int64_t i) { return w.code_value(row, first + i); };
  const int64_t group = w.sum_group();
  if (group == 0) return chain(total, 0, k, math, input, weight);
  for (int64_t begin = 0; begin < k; begin += group) {
    const float sum = chain(0, begin, std::min(k, begin + group), math, input, weight);
    total = std::fma(sum, w.scale(row, begin / scale_group(w.format())), total);
    if (math == MatmulMath::bf16) total = without_denormal(total);
  }
  return total;
}

void run(const PanelTask& task) {
  std::optional<FlushDenormals> flush;
  if (task.math == MatmulMath::bf16) flush.emplace(false);
  const PackedWeight& w = *task.w;
  const auto* x = static_cast<const float*>(task.x);
  const int64_t width = w.panel_width(task.panel_idx);
  for (int64_t i = 0; i < task.m; ++i) {
    for (int64_t lane = 0; lane < width; ++lane) {
      const int64_t row = task.panel_idx * PackedWeight::kPanelWidth + lane;
      if (row >= w.rows()) continue;
      float& y = task.y[i * task.y_stride + lane];
      y = output(w, row, task.first_input, task.k, task.math, x + i * task.k,
                 task.accumulate ? y : 0.0f);
    }
  }
}

// Prepared x is plain rows here, padded with zeros to k.
void copy_rows(const float* x, int64_t x_stride, const int32_t* x_rows, int64_t m,
               int64_t num_inputs, int64_t k, float* out) {
  for (int64_t i = 0; i < m; ++i) {
    const float* row = x + (x_rows != nullptr ? x_rows[i] : i) * x_stride;
    std::copy(row, row + num_inputs, out + i * k);
    std::fill(out + i * k + num_inputs, out + (i + 1) * k, 0.0f);
  }
}

int64_t even(int64_t k) { return k + k % 2; }

void pack_rows_transposed_f32(const float* rows, int64_t stride, int64_t n, int64_t k,
                              int64_t width, float* panel) {
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t lane = 0; lane < width; ++lane) {
      panel[j * width + lane] = lane < n ? rows[lane * stride + j] : 0.0f;
    }
  }
}

void pack_rows_transposed_bf16(const float* rows, int64_t stride, int64_t n, int64_t k,
                               int64_t width, uint16_t* panel) {
  for (int64_t j = 0; j < even(k); ++j) {
    for (int64_t lane = 0; lane < width; ++lane) {
      const float value = lane < n && j < k ? rows[lane * stride + j] : 0.0f;
      panel[(j / 2 * width + lane) * 2 + j % 2] = numeric::bf16_from_float(value);
    }
  }
}

void pack_rows_f32(const float* rows, int64_t stride, int64_t n, int64_t k, int64_t width,
                   float* panel) {
  for (int64_t j = 0; j < k; ++j) {
    for (int64_t lane = 0; lane < width; ++lane) {
      panel[j * width + lane] = lane < n ? rows[j * stride + lane] : 0.0f;
    }
  }
}

void pack_rows_bf16(const float* rows, int64_t stride, int64_t n, int64_t k, int64_t width,
                    uint16_t* panel) {
  for (int64_t j = 0; j < even(k); ++j) {
    for (int64_t lane = 0; lane < width; ++lane) {
      const float value = lane < n && j < k ? rows[j * stride + lane] : 0.0f;
      panel[(j / 2 * width + lane) * 2 + j % 2] = numeric::bf16_from_float(value);
    }
  }
}

int64_t prepared_x_bytes(WeightFormat, int64_t m, int64_t k) { return m * k * 4; }
void prepare_x(WeightFormat, MatmulMath, const float* x, int64_t x_stride, const int32_t* x_rows,
               int64_t m, int64_t num_inputs, int64_t k, void* out) {
  copy_rows(x, x_stride, x_rows, m, num_inputs, k, static_cast<float*>(out));
}
int64_t scratch_bytes(int64_t) { return 0; }

}  // namespace

const MatmulKernels kMatmulReference = {
    {pack_rows_transposed_f32, pack_rows_transposed_bf16, pack_rows_f32, pack_rows_bf16},
    prepared_x_bytes,
    prepare_x,
    nullptr,
    scratch_bytes,
    kNeverCopied,
    run,
    round_rows};

}  // namespace cachalot::ops
