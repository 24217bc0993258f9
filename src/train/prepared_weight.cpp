#include "train/prepared_weight.h"

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace cachalot::train {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kGroup = 32;

int64_t blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }

void add(const formats::RecastCounts& from, formats::RecastCounts* to) {
  to->blocks += from.blocks;
  to->blocks_over_limit += from.blocks_over_limit;
  to->inexact_blocks += from.inexact_blocks;
  to->max_spread = std::max(to->max_spread, from.max_spread);
}

// A stripe of up to 128 rows, whose blocks no other stripe has a part in.
Status quantize_stripe(PreparedFormat format, std::span<const float> values, int64_t rows,
                       int64_t columns, std::span<uint8_t> codes, std::span<uint8_t> scales,
                       formats::RecastCounts* recast) {
  formats::QuantizeCounts counts;
  if (format == PreparedFormat::fp8) {
    return formats::quantize_fp8_blocks(values, rows, columns, kBlock, kBlock, {}, codes, scales,
                                        &counts);
  }
  std::vector<uint8_t> fp4(static_cast<size_t>(rows * columns / 2)),
      fp4_scales(static_cast<size_t>(rows * columns / kGroup));
  CACHALOT_RETURN_IF_ERROR(
      formats::quantize_fp4_groups(values, rows, columns, {}, fp4, fp4_scales, &counts));
  formats::recast_fp4_to_fp8(fp4, fp4_scales, rows, columns, codes, scales,
                             formats::kMaxFp4ExponentSpread, recast);
  return {};
}

}  // namespace

Fp8Matrix Fp8Matrix::transposed() const {
  Fp8Matrix out{columns, rows, std::vector<uint8_t>(codes.size()),
                std::vector<uint8_t>(scales.size())};
  constexpr int64_t kTile = 32;  // of codes: both sides stay in the cache
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r)
        out.codes[c * rows + r] = codes[r * columns + c];
    }
  }
  const int64_t down = blocks(rows), across = blocks(columns);
  for (int64_t r = 0; r < down; ++r)
    for (int64_t c = 0; c < across; ++c) out.scales[c * down + r] = scales[r * across + c];
  return out;
}

tensor::QuantTensor Fp8Matrix::view() const {
  tensor::QuantTensor t;
  t.rows = rows;
  t.columns = columns;
  t.weight = {
      tensor::DType::f8_e4m3, {rows, columns}, reinterpret_cast<const std::byte*>(codes.data())};
  t.scale = {tensor::DType::f8_e8m0,
             {blocks(rows), blocks(columns)},
             reinterpret_cast<const std::byte*>(scales.data())};
  t.block_rows = t.block_columns = kBlock;
  return t;
}

Result<Fp8Matrix> quantize_weight(device::ExecContext& ctx, PreparedFormat format,
                                  const ops::FloatMatrix& master, formats::RecastCounts* recast) {
  CACHALOT_CHECK(format == PreparedFormat::fp8 || format == PreparedFormat::fp8_of_fp4);
  CACHALOT_CHECK(master.row_stride == master.columns);
  const int64_t across = blocks(master.columns), stripes = blocks(master.rows);
  Fp8Matrix out{master.rows, master.columns,
                std::vector<uint8_t>(static_cast<size_t>(master.rows * master.columns)),
                std::vector<uint8_t>(static_cast<size_t>(stripes * across))};
  std::vector<Status> status(static_cast<size_t>(stripes));
  std::vector<formats::RecastCounts> counts(static_cast<size_t>(stripes));
  ctx.pool->run(stripes, [&](int64_t stripe, int) {
    const int64_t first = stripe * kBlock, rows = std::min(kBlock, master.rows - first);
    const auto at = static_cast<size_t>(first * master.columns);
    const auto count = static_cast<size_t>(rows * master.columns);
    status[stripe] =
        quantize_stripe(format, {master.data + at, count}, rows, master.columns,
                        std::span(out.codes).subspan(at, count),
                        std::span(out.scales).subspan(stripe * across, across), &counts[stripe]);
  });
  for (const Status& s : status) CACHALOT_RETURN_IF_ERROR(s);
  for (const formats::RecastCounts& c : counts) add(c, recast);
  return out;
}

Status prepare_weight(device::ExecContext& ctx, PreparedFormat format,
                      const ops::FloatMatrix& master, ops::PackedWeight& weight,
                      ops::PackedWeight& transposed, formats::RecastCounts* recast) {
  if (format == PreparedFormat::f32 || format == PreparedFormat::bf16) {
    const auto packed =
        format == PreparedFormat::f32 ? ops::WeightFormat::f32 : ops::WeightFormat::bf16;
    weight.assign(ctx, packed, master);
    transposed.assign_transposed(ctx, packed, master);
    return {};
  }
  CACHALOT_ASSIGN_OR_RETURN(const Fp8Matrix fp8, quantize_weight(ctx, format, master, recast));
  CACHALOT_ASSIGN_OR_RETURN(weight, ops::PackedWeight::pack(ctx, fp8.view()));
  if (format == PreparedFormat::fp8_of_fp4) weight.set_sum_group(kGroup);
  CACHALOT_ASSIGN_OR_RETURN(transposed, ops::PackedWeight::pack(ctx, fp8.transposed().view()));
  return {};
}

}  // namespace cachalot::train
