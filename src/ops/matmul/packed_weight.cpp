#include "ops/matmul/packed_weight.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "numeric/formats.h"
#include "ops/matmul/panel.h"

namespace cachalot::ops {
namespace {

using tensor::DType;
using tensor::QuantTensor;

constexpr int64_t kFp4BlockInputs = 32;
constexpr int64_t kFp8BlockInputs = 128;

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

Result<WeightFormat> format_of(const QuantTensor& t) {
  switch (t.weight.dtype) {
    case DType::f32:
    case DType::f16: return WeightFormat::f32;
    case DType::bf16: return WeightFormat::bf16;
    case DType::f8_e4m3: return WeightFormat::fp8;
    case DType::i8: return WeightFormat::fp4;
    default:
      return unsupported(
          fmt::format("weight dtype: expected F32, F16, BF16, F8_E4M3 or I8 (FP4 pairs), found {}",
                      tensor::dtype_name(t.weight.dtype)));
  }
}

Status check_shapes(const QuantTensor& t, WeightFormat format) {
  const bool fp4 = format == WeightFormat::fp4;
  if (t.rows <= 0 || t.columns <= 0 || (fp4 && t.columns % 2 != 0)) {
    return invalid_argument(fmt::format("weight: expected a matrix with {}columns, found {} x {}",
                                        fp4 ? "an even number of " : "", t.rows, t.columns));
  }
  const tensor::Shape expected{t.rows, fp4 ? t.columns / 2 : t.columns};
  if (t.weight.shape != expected) {
    return invalid_argument(fmt::format("weight shape: expected {}, found {}",
                                        tensor::shape_string(expected),
                                        tensor::shape_string(t.weight.shape)));
  }
  const int64_t group = scale_group(format);
  if (group == 0) {
    if (!t.has_scale()) return {};
    return unsupported(fmt::format("scale: expected none with {} weights, found {}",
                                   tensor::dtype_name(t.weight.dtype),
                                   tensor::dtype_name(t.scale.dtype)));
  }
  if (!t.has_scale()) {
    return invalid_argument(
        fmt::format("scale: expected one with {} weights, found none", weight_format_name(format)));
  }
  const int64_t block_rows = fp4 ? 1 : kFp8BlockInputs;
  if (t.block_rows != block_rows || t.block_columns != group) {
    return unsupported(fmt::format("scale block: expected {} x {}, found {} x {}", block_rows,
                                   group, t.block_rows, t.block_columns));
  }
  if (t.scale.dtype != DType::f8_e8m0 && (fp4 || t.scale.dtype != DType::f32)) {
    return unsupported(fmt::format("scale dtype: expected F8_E8M0{}, found {}",
                                   fp4 ? "" : " or F32", tensor::dtype_name(t.scale.dtype)));
  }
  const tensor::Shape scale_shape{round_up(t.rows, block_rows) / block_rows,
                                  round_up(t.columns, group) / group};
  if (t.scale.shape != scale_shape) {
    return invalid_argument(fmt::format("scale shape: expected {}, found {}",
                                        tensor::shape_string(scale_shape),
                                        tensor::shape_string(t.scale.shape)));
  }
  return {};
}

// Rows of `unit_bytes`-sized pieces of up to 64 matrix rows, interleaved: piece i of lane l goes to
// out[(i * width + l)]. The last piece of a row may be partial, where out was
// zeroed.
void interleave_dwords(const std::byte* rows, int64_t row_bytes, int64_t num_lanes, int64_t width,
                       std::byte* out) {
  constexpr int64_t kRun = 16;  // a cache line of each source row at a time
  const int64_t whole = row_bytes / 4;
  for (int64_t begin = 0; begin < whole; begin += kRun) {
    const int64_t end = std::min(whole, begin + kRun);
    for (int64_t lane = 0; lane < num_lanes; ++lane) {
      const std::byte* row = rows + lane * row_bytes;
      for (int64_t i = begin; i < end; ++i)
        std::memcpy(out + (i * width + lane) * 4, row + i * 4, 4);
    }
  }
  for (int64_t lane = 0; lane < num_lanes && row_bytes % 4 != 0; ++lane) {
    std::memcpy(out + (whole * width + lane) * 4, rows + lane * row_bytes + whole * 4,
                static_cast<size_t>(row_bytes % 4));
  }
}

// The eight codes of one lane and run of eight inputs, from four source bytes into their octet.
void place_fp4_run(const uint8_t* source, int64_t lane_in_octet, uint8_t* octet) {
  const uint8_t s0 = source[0], s1 = source[1], s2 = source[2], s3 = source[3];
  uint8_t* out = octet + lane_in_octet / 4 * 16 + lane_in_octet % 4 * 2;
  out[0] = static_cast<uint8_t>((s0 & 15) | (s2 << 4));
  out[1] = static_cast<uint8_t>((s0 >> 4) | (s2 & 0xF0));
  out[8] = static_cast<uint8_t>((s1 & 15) | (s3 << 4));
  out[9] = static_cast<uint8_t>((s1 >> 4) | (s3 & 0xF0));
}

void interleave_fp4(const QuantTensor& t, int64_t first_row, int64_t num_lanes, int64_t width,
                    std::byte* panel) {
  auto* out = reinterpret_cast<uint8_t*>(panel);
  const auto* codes = reinterpret_cast<const uint8_t*>(t.weight.data) + first_row * (t.columns / 2);
  const auto* scales = reinterpret_cast<const uint8_t*>(t.scale.data);
  const int64_t num_blocks = round_up(t.columns, kFp4BlockInputs) / kFp4BlockInputs;
  const int64_t block_bytes = width + width * kFp4BlockInputs / 2;
  const int64_t row_bytes = t.columns / 2;
  for (int64_t block = 0; block < num_blocks; ++block) {
    uint8_t* block_out = out + block * block_bytes;
    for (int64_t lane = 0; lane < num_lanes; ++lane) {
      block_out[lane] = scales[(first_row + lane) * num_blocks + block];
      uint8_t source[16] = {};
      const int64_t offset = block * 16;
      std::memcpy(source, codes + lane * row_bytes + offset,
                  static_cast<size_t>(std::min<int64_t>(16, row_bytes - offset)));
      for (int64_t run = 0; run < 4; ++run) {
        place_fp4_run(source + run * 4, lane % 8,
                      block_out + width + (run * (width / 8) + lane / 8) * 32);
      }
    }
  }
}

void widen_f16(const QuantTensor& t, int64_t first_row, int64_t num_lanes, int64_t width,
               std::byte* panel) {
  auto* out = reinterpret_cast<float*>(panel);
  for (int64_t lane = 0; lane < num_lanes; ++lane) {
    const std::byte* row = t.weight.data + (first_row + lane) * t.columns * 2;
    for (int64_t k = 0; k < t.columns; ++k) {
      uint16_t half;
      std::memcpy(&half, row + k * 2, 2);
      out[k * width + lane] = numeric::float_from_f16(half);
    }
  }
}

bool holds_nan_code(const std::byte* codes, int64_t count) {
  bool found = false;
  for (int64_t i = 0; i < count; ++i) found |= (std::to_integer<uint8_t>(codes[i]) & 0x7F) == 0x7F;
  return found;
}

// Every scale as a float; an error for one that is no number.
Status read_scales(const tensor::TensorView& view, std::vector<float>& scales) {
  scales = tensor::to_floats(view);
  for (size_t i = 0; i < scales.size(); ++i) {
    if (std::isfinite(scales[i])) continue;
    const auto columns = static_cast<size_t>(view.shape[1]);
    return invalid_argument(fmt::format("scale at [{}, {}]: expected a finite number, found {}",
                                        i / columns, i % columns, scales[i]));
  }
  return {};
}

Status check_fp4_scales(const tensor::TensorView& view) {
  const auto bytes = view.bytes();
  const void* found = std::memchr(bytes.data(), 255, bytes.size());
  if (found == nullptr) return {};
  const int64_t i = static_cast<const std::byte*>(found) - bytes.data();
  return invalid_argument(
      fmt::format("scale at [{}, {}]: expected an e8m0 byte below 255, found 255 (NaN)",
                  i / view.shape[1], i % view.shape[1]));
}

}  // namespace

std::string_view weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32: return "f32";
    case WeightFormat::bf16: return "bf16";
    case WeightFormat::fp8: return "fp8";
    case WeightFormat::fp4: return "fp4";
  }
  return "unknown";
}

int64_t PackedWeight::panel_bytes(int64_t width) const {
  switch (format_) {
    case WeightFormat::f32: return padded_columns_ * width * 4;
    case WeightFormat::bf16: return padded_columns_ * width * 2;
    case WeightFormat::fp8: return padded_columns_ * width;
    case WeightFormat::fp4: return padded_columns_ / 32 * (width + width * 16);
  }
  return 0;
}

const float* PackedWeight::panel_scales(int64_t panel) const {
  if (format_ != WeightFormat::fp8) return nullptr;
  const int64_t groups = round_up(columns_, kFp8BlockInputs) / kFp8BlockInputs;
  return reinterpret_cast<const float*>(data_ + scales_offset()) + panel * groups;
}

int64_t PackedWeight::panels_bytes() const {
  const int64_t last = num_panels() - 1;
  return last * panel_bytes(kPanelWidth) + panel_bytes(panel_width(last));
}

int64_t PackedWeight::scales_bytes() const {
  if (format_ != WeightFormat::fp8) return 0;
  return num_panels() * (round_up(columns_, kFp8BlockInputs) / kFp8BlockInputs) * 4;
}

Result<PackedWeight> PackedWeight::shaped(const QuantTensor& tensor) {
  CACHALOT_ASSIGN_OR_RETURN(const WeightFormat format, format_of(tensor));
  CACHALOT_RETURN_IF_ERROR(check_shapes(tensor, format));
  PackedWeight w;
  w.rows_ = tensor.rows;
  w.columns_ = tensor.columns;
  w.format_ = format;
  w.sum_group_ = scale_group(format);
  const int64_t step = format == WeightFormat::f32    ? 1
                       : format == WeightFormat::bf16 ? 2
                       : format == WeightFormat::fp8  ? 4
                                                      : kFp4BlockInputs;
  w.padded_columns_ = round_up(tensor.columns, step);
  return w;
}

Result<int64_t> PackedWeight::packed_bytes(const QuantTensor& tensor) {
  CACHALOT_ASSIGN_OR_RETURN(const PackedWeight w, shaped(tensor));
  return w.scales_offset() + w.scales_bytes();
}

Result<PackedWeight> PackedWeight::packed_at(const QuantTensor& tensor, bool has_nan_codes,
                                             const std::byte* memory) {
  CACHALOT_ASSIGN_OR_RETURN(PackedWeight w, shaped(tensor));
  w.has_nan_codes_ = has_nan_codes;
  w.data_ = memory;
  return w;
}

Result<PackedWeight> PackedWeight::pack(device::ExecContext& ctx, const QuantTensor& tensor) {
  CACHALOT_ASSIGN_OR_RETURN(PackedWeight w, shaped(tensor));
  CACHALOT_ASSIGN_OR_RETURN(w.owned_, device::Buffer::create(w.scales_offset() + w.scales_bytes()));
  CACHALOT_RETURN_IF_ERROR(w.fill(ctx, tensor, w.owned_.data()));
  return w;
}

Result<PackedWeight> PackedWeight::pack_into(device::ExecContext& ctx, const QuantTensor& tensor,
                                             std::byte* memory) {
  CACHALOT_ASSIGN_OR_RETURN(PackedWeight w, shaped(tensor));
  CACHALOT_RETURN_IF_ERROR(w.fill(ctx, tensor, memory));
  return w;
}

Status PackedWeight::fill(device::ExecContext& ctx, const QuantTensor& tensor, std::byte* memory) {
  data_ = memory;
  const int64_t last = num_panels() - 1;
  if (format_ == WeightFormat::fp8) {
    std::vector<float> scales;
    CACHALOT_RETURN_IF_ERROR(read_scales(tensor.scale, scales));
    const int64_t groups = round_up(columns_, kFp8BlockInputs) / kFp8BlockInputs;
    for (int64_t panel = 0; panel <= last; ++panel) {
      std::memcpy(memory + scales_offset() + panel * groups * 4,
                  scales.data() + panel * kPanelWidth / tensor.block_rows * groups,
                  static_cast<size_t>(groups * 4));
    }
  } else if (format_ == WeightFormat::fp4) {
    CACHALOT_RETURN_IF_ERROR(check_fp4_scales(tensor.scale));
  }
  std::memset(memory + panels_bytes(), 0, static_cast<size_t>(scales_offset() - panels_bytes()));

  std::atomic<bool> has_nan = false;
  ctx.pool->run(last + 1, [&](int64_t panel, int) {
    const int64_t first_row = panel * kPanelWidth;
    const int64_t num_lanes = std::min(kPanelWidth, tensor.rows - first_row);
    const int64_t width = panel_width(panel);
    std::byte* out = memory + panel * panel_bytes(kPanelWidth);
    if (num_lanes < width || padded_columns_ != columns_)  // what lies beyond the matrix is zero
      std::memset(out, 0, static_cast<size_t>(panel_bytes(width)));
    if (format_ == WeightFormat::fp4) {
      interleave_fp4(tensor, first_row, num_lanes, width, out);
    } else if (tensor.weight.dtype == DType::f16) {
      widen_f16(tensor, first_row, num_lanes, width, out);
    } else {
      const int64_t row_bytes = tensor.columns * tensor::dtype_bytes(tensor.weight.dtype);
      const std::byte* rows = tensor.weight.data + first_row * row_bytes;
      interleave_dwords(rows, row_bytes, num_lanes, width, out);
      if (format_ == WeightFormat::fp8 && holds_nan_code(rows, num_lanes * row_bytes)) {
        has_nan.store(true, std::memory_order_relaxed);
      }
    }
  });
  has_nan_codes_ = has_nan.load();
  return {};
}

std::byte* PackedWeight::resize(WeightFormat format, int64_t rows, int64_t columns) {
  CACHALOT_CHECK(format == WeightFormat::f32 || format == WeightFormat::bf16);
  CACHALOT_CHECK(rows > 0 && columns > 0);
  rows_ = rows;
  columns_ = columns;
  padded_columns_ = format == WeightFormat::bf16 ? round_up(columns, 2) : columns;
  format_ = format;
  sum_group_ = 0;
  has_nan_codes_ = false;
  if (owned_.size() != scales_offset()) owned_ = device::Buffer(scales_offset());
  data_ = owned_.data();
  return owned_.data();
}

void PackedWeight::set_sum_group(int64_t inputs) {
  CACHALOT_CHECK(format_ == WeightFormat::fp8);
  CACHALOT_CHECK(inputs == kFp4BlockInputs || inputs == kFp8BlockInputs);
  sum_group_ = inputs;
}

void PackedWeight::assign(device::ExecContext& ctx, WeightFormat format, const FloatMatrix& w) {
  std::byte* memory = resize(format, w.rows, w.columns);
  const PanelKernels& kernels = panel_kernels(ctx.isa);
  ctx.pool->run(num_panels(), [&](int64_t panel, int) {
    const int64_t first_row = panel * kPanelWidth;
    const int64_t num_lanes = std::min(kPanelWidth, w.rows - first_row);
    const float* from = w.data + first_row * w.row_stride;
    std::byte* out = memory + panel * panel_bytes(kPanelWidth);
    if (format == WeightFormat::f32) {
      kernels.pack_rows_transposed_f32(from, w.row_stride, num_lanes, w.columns, panel_width(panel),
                                       reinterpret_cast<float*>(out));
    } else {
      kernels.pack_rows_transposed_bf16(from, w.row_stride, num_lanes, w.columns,
                                        panel_width(panel), reinterpret_cast<uint16_t*>(out));
    }
  });
}

void PackedWeight::assign_transposed(device::ExecContext& ctx, WeightFormat format,
                                     const FloatMatrix& w) {
  std::byte* memory = resize(format, w.columns, w.rows);
  const PanelKernels& kernels = panel_kernels(ctx.isa);
  ctx.pool->run(num_panels(), [&](int64_t panel, int) {
    const int64_t first_column = panel * kPanelWidth;
    const int64_t num_lanes = std::min(kPanelWidth, w.columns - first_column);
    const float* from = w.data + first_column;
    std::byte* out = memory + panel * panel_bytes(kPanelWidth);
    if (format == WeightFormat::f32) {
      kernels.pack_rows_f32(from, w.row_stride, num_lanes, w.rows, panel_width(panel),
                            reinterpret_cast<float*>(out));
    } else {
      kernels.pack_rows_bf16(from, w.row_stride, num_lanes, w.rows, panel_width(panel),
                             reinterpret_cast<uint16_t*>(out));
    }
  });
}

float PackedWeight::code_value(int64_t row, int64_t column) const {
  const int64_t panel_idx = row / kPanelWidth;
  const int64_t width = panel_width(panel_idx);
  const int64_t lane = row % kPanelWidth;
  const std::byte* p = panel(panel_idx);
  switch (format_) {
    case WeightFormat::f32: return reinterpret_cast<const float*>(p)[column * width + lane];
    case WeightFormat::bf16:
      return numeric::float_from_bf16(
          reinterpret_cast<const uint16_t*>(p)[(column / 2 * width + lane) * 2 + column % 2]);
    case WeightFormat::fp8:
      return numeric::float_from_e4m3(
          std::to_integer<uint8_t>(p[(column / 4 * width + lane) * 4 + column % 4]));
    case WeightFormat::fp4: {
      const int64_t k = column % 8;
      const std::byte* octet =
          p + column / 32 * width * 17 + width + (column % 32 / 8 * (width / 8) + lane / 8) * 32;
      const auto byte =
          std::to_integer<uint8_t>(octet[lane % 8 / 4 * 16 + k % 4 / 2 * 8 + lane % 4 * 2 + k % 2]);
      return numeric::float_from_e2m1(k >= 4 ? byte >> 4 : byte);
    }
  }
  return 0;
}

float PackedWeight::scale(int64_t row, int64_t group) const {
  const int64_t panel_idx = row / kPanelWidth;
  if (format_ == WeightFormat::fp8) return panel_scales(panel_idx)[group];
  if (format_ != WeightFormat::fp4) return 1;
  const std::byte* block = panel(panel_idx) + group * panel_width(panel_idx) * 17;
  return numeric::float_from_e8m0(std::to_integer<uint8_t>(block[row % kPanelWidth]));
}

}  // namespace cachalot::ops
