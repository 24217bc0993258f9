#include "formats/tensor_encoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace cachalot::formats {
namespace {

using tensor::DType;
using tensor::QuantTensor;
using tensor::TensorView;

constexpr int64_t kStripeElements = int64_t{1} << 22;
constexpr int64_t kStripeRows = 128;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows [begin, begin + count) of a matrix in any format; begin is a multiple of block_rows.
std::vector<float> decode_rows(const QuantTensor& matrix, int64_t begin, int64_t count) {
  auto rows = [&](const TensorView& view, int64_t first, int64_t num) {
    const int64_t row_bytes = view.shape[1] * dtype_bytes(view.dtype);
    return TensorView{view.dtype, {num, view.shape[1]}, view.data + first * row_bytes};
  };
  QuantTensor part = matrix;
  part.rows = count;
  part.weight = rows(matrix.weight, begin, count);
  if (matrix.has_scale()) {
    part.scale = rows(matrix.scale, begin / matrix.block_rows, ceil_div(count, matrix.block_rows));
  }
  return tensor::dequantize(part);
}

// Appends the values as dtype; counts those that it does not hold exactly.
int64_t append(const std::vector<float>& values, DType dtype, std::vector<std::byte>* out) {
  out->resize(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  if (dtype == DType::f32) {
    std::memcpy(out->data(), values.data(), out->size());
    return 0;
  }
  CACHALOT_CHECK(dtype == DType::bf16);
  return encode_bf16(values, *out);
}

// Per tile the largest of the FP4 scales that lie in it, divided by 64 (reference/forward 7.3). 255
// where that is no scale.
std::vector<uint8_t> recast_scales(const QuantTensor& fp4, int64_t block_rows,
                                   int64_t block_columns) {
  const int64_t scale_columns = ceil_div(fp4.columns, block_columns);
  std::vector<uint8_t> out(static_cast<size_t>(ceil_div(fp4.rows, block_rows) * scale_columns), 0);
  const auto* from = fp4.scale.as<uint8_t>();
  const int64_t from_columns = fp4.scale.shape[1];
  for (int64_t r = 0; r < fp4.rows; ++r) {
    for (int64_t c = 0; c < from_columns; ++c) {
      uint8_t& largest =
          out[r / block_rows * scale_columns + c * fp4.block_columns / block_columns];
      largest = std::max(largest, from[r * from_columns + c]);
    }
  }
  for (uint8_t& scale : out)
    scale = scale >= 6 && scale != 255 ? static_cast<uint8_t>(scale - 6) : 255;
  return out;
}

}  // namespace

Status TensorEncoder::encode(const std::string& name, const TargetFormat& target,
                             const Emit& emit) {
  if (target.kind == TargetFormat::Kind::copy) return emit(source_->raw(name)->view.bytes());
  const bool is_scale = source_->info(name) == nullptr;
  const std::string weight =
      is_scale ? name.substr(0, name.size() - std::string_view(".scale").size()) + ".weight" : name;
  const TensorInfo& info = *source_->info(weight);
  if (target.kind == TargetFormat::Kind::real) return emit_real(info, target.dtype, emit);
  if (last_ != weight) {
    last_.clear();
    CACHALOT_RETURN_IF_ERROR(quantize(info, target));
    last_ = weight;
  }
  return emit(std::as_bytes(std::span(is_scale ? scales_ : codes_)));
}

Status TensorEncoder::emit_real(const TensorInfo& info, DType dtype, const Emit& emit) {
  std::vector<std::byte> bytes;
  if (info.shape.size() != 2) {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<float> values, source_->floats(info.name));
    summary_->rounded_values += append(values, dtype, &bytes);
    return emit(bytes);
  }
  CACHALOT_ASSIGN_OR_RETURN(const QuantTensor matrix, source_->matrix(info.name));
  const int64_t unit = std::max<int64_t>(matrix.block_rows, 1);
  const int64_t stripe =
      std::max(unit, kStripeElements / std::max<int64_t>(matrix.columns, 1) / unit * unit);
  for (int64_t row = 0; row < matrix.rows; row += stripe) {
    const std::vector<float> values = decode_rows(matrix, row, std::min(stripe, matrix.rows - row));
    summary_->rounded_values += append(values, dtype, &bytes);
    CACHALOT_RETURN_IF_ERROR(emit(bytes));
  }
  return {};
}

std::vector<uint8_t> TensorEncoder::preferred_scales(const TensorInfo& info,
                                                     const TargetFormat& target,
                                                     const QuantTensor& from) const {
  if (target.is_recast && target.kind == TargetFormat::Kind::fp8) {
    return recast_scales(from, target.block_rows, target.block_columns);
  }
  if (!preferred_) return {};
  const std::optional<TensorView> scale = preferred_(info.name);
  const tensor::Shape shape = target.kind == TargetFormat::Kind::fp4
                                  ? tensor::Shape{from.rows, from.columns / 32}
                                  : tensor::Shape{ceil_div(from.rows, target.block_rows),
                                                  ceil_div(from.columns, target.block_columns)};
  if (!scale || scale->dtype != DType::f8_e8m0 || scale->shape != shape) return {};
  const auto* bytes = scale->as<uint8_t>();
  return std::vector<uint8_t>(bytes, bytes + scale->num_elements());
}

Status TensorEncoder::quantize(const TensorInfo& info, const TargetFormat& target) {
  CACHALOT_ASSIGN_OR_RETURN(const QuantTensor from, source_->matrix(info.name));
  const bool is_fp4 = target.kind == TargetFormat::Kind::fp4;
  const int64_t block_rows = is_fp4 ? 1 : target.block_rows;
  const int64_t scale_columns =
      is_fp4 ? from.columns / 32 : ceil_div(from.columns, target.block_columns);
  codes_.resize(
      static_cast<size_t>(is_fp4 ? from.rows * from.columns / 2 : from.rows * from.columns));
  scales_.resize(static_cast<size_t>(ceil_div(from.rows, block_rows) * scale_columns));
  const std::vector<uint8_t> preferred = preferred_scales(info, target, from);
  QuantizeCounts counts;
  // Stripes that no block of either side straddles.
  const int64_t from_rows = std::max<int64_t>(from.block_rows, 1);
  const int64_t unit = std::max(from_rows, block_rows);
  const bool is_nested = unit % from_rows == 0 && unit % block_rows == 0;
  const int64_t stripe = is_nested ? unit * ceil_div(kStripeRows, unit) : from.rows;
  for (int64_t row = 0; row < from.rows; row += stripe) {
    const int64_t count = std::min(stripe, from.rows - row);
    const std::vector<float> values = decode_rows(from, row, count);
    const int64_t scale_begin = row / block_rows * scale_columns,
                  scale_count = ceil_div(count, block_rows) * scale_columns;
    const auto scales = std::span(scales_).subspan(scale_begin, scale_count);
    const auto like = preferred.empty() ? std::span<const uint8_t>()
                                        : std::span(preferred).subspan(scale_begin, scale_count);
    const int64_t per_code = is_fp4 ? 2 : 1;
    const auto codes =
        std::span(codes_).subspan(row * from.columns / per_code, count * from.columns / per_code);
    const Status status =
        is_fp4 ? quantize_fp4_groups(values, count, from.columns, like, codes, scales, &counts)
               : quantize_fp8_blocks(values, count, from.columns, target.block_rows,
                                     target.block_columns, like, codes, scales, &counts);
    if (!status.ok()) {
      return Status(status.code(),
                    fmt::format("{}: tensor {}: rows from {}: {}", source_->checkpoint().path(),
                                info.name, row, status.message()));
    }
  }
  if (target.is_recast && counts.inexact_blocks > 0) {
    return data_loss(
        fmt::format("{}: tensor {}: expected a recast without loss, found {} of {} blocks whose "
                    "scales lie too far apart",
                    source_->checkpoint().path(), info.name, counts.inexact_blocks, counts.blocks));
  }
  summary_->blocks.blocks += counts.blocks;
  summary_->blocks.preferred_blocks += counts.preferred_blocks;
  summary_->blocks.inexact_blocks += counts.inexact_blocks;
  return {};
}

}  // namespace cachalot::formats
