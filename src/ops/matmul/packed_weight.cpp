#include "ops/matmul/packed_weight.h"

#include <emmintrin.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "numeric/formats.h"
#include "ops/matmul/panel.h"
#include "ops/matmul/stream_panels.h"
#include "ops/on_gpu.h"

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

// 16 bytes of each of four matrix rows, as four vectors: dword i of the four rows.
struct Quad {
  __m128i dwords[4];
};

// Row r at rows + r * row_bytes, of which num_rows exist and num_bytes (at most 16) are read: what
// is not there is zero.
Quad load_quad(const std::byte* rows, int64_t row_bytes, int64_t num_rows, int64_t num_bytes) {
  __m128i row[4] = {};
  for (int64_t r = 0; r < std::min<int64_t>(num_rows, 4); ++r) {
    if (num_bytes == 16) {
      row[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows + r * row_bytes));
    } else {
      std::memcpy(&row[r], rows + r * row_bytes, static_cast<size_t>(num_bytes));
    }
  }
  const __m128i low01 = _mm_unpacklo_epi32(row[0], row[1]);
  const __m128i low23 = _mm_unpacklo_epi32(row[2], row[3]);
  const __m128i high01 = _mm_unpackhi_epi32(row[0], row[1]);
  const __m128i high23 = _mm_unpackhi_epi32(row[2], row[3]);
  return {{_mm_unpacklo_epi64(low01, low23), _mm_unpackhi_epi64(low01, low23),
           _mm_unpacklo_epi64(high01, high23), _mm_unpackhi_epi64(high01, high23)}};
}

void store(std::byte* out, __m128i value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), value);
}

// Up to 64 matrix rows, interleaved by dwords: dword i of lane l goes to out[(i * width + l)].
// Lanes and bytes beyond the matrix are zero.
void interleave_dwords(const std::byte* rows, int64_t row_bytes, int64_t num_lanes, int64_t width,
                       std::byte* out) {
  for (int64_t begin = 0; begin < row_bytes; begin += 16) {
    const int64_t num_bytes = std::min<int64_t>(16, row_bytes - begin);
    for (int64_t lane = 0; lane < width; lane += 4) {
      const Quad quad =
          load_quad(rows + lane * row_bytes + begin, row_bytes, num_lanes - lane, num_bytes);
      for (int64_t i = 0; i * 4 < num_bytes; ++i)
        store(out + ((begin / 4 + i) * width + lane) * 4, quad.dwords[i]);
    }
  }
}

// The eight codes of a run of four lanes, a dword each, as half an octet (the header's layout).
__m128i half_octet(__m128i codes) {
  const __m128i nibbles = _mm_set1_epi32(0x0F0F), byte = _mm_set1_epi32(0xFF);
  const __m128i later = _mm_srli_epi32(codes, 16);  // inputs 4 to 7
  // Bytes 0 and 1 of each: inputs 0 and 2 with those four later; inputs 1 and 3 with theirs.
  const __m128i even =
      _mm_or_si128(_mm_and_si128(codes, nibbles), _mm_slli_epi32(_mm_and_si128(later, nibbles), 4));
  const __m128i odd = _mm_or_si128(_mm_and_si128(_mm_srli_epi32(codes, 4), nibbles),
                                   _mm_andnot_si128(nibbles, later));
  const __m128i first =
      _mm_or_si128(_mm_and_si128(even, byte), _mm_slli_epi32(_mm_and_si128(odd, byte), 8));
  const __m128i second = _mm_or_si128(_mm_srli_epi32(even, 8), _mm_andnot_si128(byte, odd));
  // Signed, since that is the narrowing that every machine has: the low halves go through
  // unchanged.
  return _mm_packs_epi32(_mm_srai_epi32(_mm_slli_epi32(first, 16), 16),
                         _mm_srai_epi32(_mm_slli_epi32(second, 16), 16));
}

// Lanes and codes beyond the matrix are zero.
void interleave_fp4(const QuantTensor& t, int64_t first_row, int64_t num_lanes, int64_t width,
                    std::byte* panel) {
  const int64_t row_bytes = t.columns / 2;
  const std::byte* codes = t.weight.data + first_row * row_bytes;
  const std::byte* scales = t.scale.data;
  const int64_t num_blocks = round_up(t.columns, kFp4BlockInputs) / kFp4BlockInputs;
  const int64_t block_bytes = width + width * kFp4BlockInputs / 2;
  for (int64_t block = 0; block < num_blocks; ++block) {
    std::byte* out = panel + block * block_bytes;
    for (int64_t lane = 0; lane < width; ++lane) {
      out[lane] = lane < num_lanes ? scales[(first_row + lane) * num_blocks + block] : std::byte{0};
    }
    const int64_t num_bytes = std::min<int64_t>(16, row_bytes - block * 16);
    for (int64_t lane = 0; lane < width; lane += 4) {
      const Quad quad =
          load_quad(codes + lane * row_bytes + block * 16, row_bytes, num_lanes - lane, num_bytes);
      for (int64_t run = 0; run < 4; ++run)
        store(out + width + run * width * 4 + lane * 4, half_octet(quad.dwords[run]));
    }
  }
}

void widen_f16(const QuantTensor& t, int64_t first_row, int64_t num_lanes, int64_t width,
               std::byte* panel) {
  auto* out = reinterpret_cast<float*>(panel);
  for (int64_t lane = 0; lane < width; ++lane) {
    const std::byte* row = t.weight.data + (first_row + lane) * t.columns * 2;
    for (int64_t k = 0; k < t.columns; ++k) {
      uint16_t half = 0;  // beyond the matrix
      if (lane < num_lanes) std::memcpy(&half, row + k * 2, 2);
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

Status PackedWeight::move_to(device::Gpu& gpu, OnGpu form) {
  const auto num_bytes = static_cast<int64_t>(bytes().size());
  CACHALOT_ASSIGN_OR_RETURN(device::Buffer moved, device::Buffer::create(num_bytes, &gpu));
  gpu.copy(moved.data(), data_, num_bytes);
  if (form != OnGpu::panels) {
    CACHALOT_CHECK(can_stream());
    const bool fp8 = format_ == WeightFormat::fp8;
    if (!fp8) form = OnGpu::streamed;
    const StreamedLayout layout{fp8 ? StreamedFormat::fp8 : StreamedFormat::bf16, rows_, columns_};
    CACHALOT_ASSIGN_OR_RETURN(device::Buffer streamed,
                              device::Buffer::create(layout.num_bytes(), &gpu));
    device::ExecContext ctx{nullptr, nullptr, device::Isa::reference, &gpu};
    stream_panels_cuda(ctx, {layout, rows_, moved.data(), scales_offset(), streamed.data()});
    gpu.synchronize();
    moved = std::move(streamed);
  }
  on_gpu_ = form;
  owned_ = std::move(moved);
  data_ = owned_.data();
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
