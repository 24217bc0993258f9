#include "ops/matmul/pack_on_gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace cachalot::ops {
namespace {

constexpr int64_t kWidth = PackedWeight::kPanelWidth;
constexpr int64_t kMaxRawBytes = int64_t{32} << 20;  // that are there at a time

Status no_number(int64_t i, int64_t columns, double found) {
  return invalid_argument(fmt::format("scale at [{}, {}]: expected a finite number, found {}",
                                      i / columns, i % columns, found));
}

// fp8: of each panel, whose rows are those of one block.
Result<std::vector<float>> scales_of_panels(const tensor::QuantTensor& tensor) {
  const std::vector<float> scales = tensor::to_floats(tensor.scale);
  const int64_t groups = tensor.scale.shape[1];
  for (size_t i = 0; i < scales.size(); ++i) {
    if (!std::isfinite(scales[i])) return no_number(static_cast<int64_t>(i), groups, scales[i]);
  }
  std::vector<float> of_panels;
  for (int64_t row = 0; row < tensor.rows; row += kWidth) {
    const auto first = scales.begin() + row / tensor.block_rows * groups;
    of_panels.insert(of_panels.end(), first, first + groups);
  }
  return of_panels;
}

Status check_fp4_scales(const tensor::TensorView& scales) {
  const auto bytes = scales.bytes();
  const void* found = std::memchr(bytes.data(), 255, bytes.size());
  if (found == nullptr) return {};
  return no_number(static_cast<const std::byte*>(found) - bytes.data(), scales.shape[1], NAN);
}

}  // namespace

Result<PackedWeight> pack_on_gpu(device::ExecContext& ctx, const tensor::QuantTensor& tensor,
                                 std::byte* memory) {
  CACHALOT_ASSIGN_OR_RETURN(PackedWeight w, PackedWeight::packed_at(tensor, false, memory));
  const device::ArenaScope scope(*ctx.arena);
  device::Gpu& gpu = *ctx.gpu;
  PackPanels p{w.format(), tensor.weight.dtype == tensor::DType::f16,
               0,          w.columns(),
               nullptr,    nullptr,
               nullptr,    ctx.arena->allocate<int32_t>(1)};
  std::byte* scales = nullptr;
  if (w.format() == WeightFormat::fp8) {
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<float> of_panels, scales_of_panels(tensor));
    const auto* there = reinterpret_cast<const std::byte*>(w.panel_scales(0));
    gpu.copy(memory + (there - memory), of_panels.data(),
             static_cast<int64_t>(of_panels.size() * sizeof(float)));
    gpu.fill(p.has_nan_codes, 0, sizeof(int32_t));
  } else if (w.format() == WeightFormat::fp4) {
    CACHALOT_RETURN_IF_ERROR(check_fp4_scales(tensor.scale));
    scales = ctx.arena->allocate<std::byte>(tensor.scale.num_bytes());
    gpu.copy(scales, tensor.scale.data, tensor.scale.num_bytes());
  }
  const int64_t row_bytes = p.row_bytes(), scale_row_bytes = (w.columns() + 31) / 32;
  const int64_t step = std::max(kWidth, kMaxRawBytes / row_bytes / kWidth * kWidth);
  auto* codes = ctx.arena->allocate<std::byte>(std::min(step, w.rows()) * row_bytes);
  for (int64_t row = 0; row < w.rows(); row += step) {
    p.rows = std::min(step, w.rows() - row);
    gpu.copy(codes, tensor.weight.data + row * row_bytes, p.rows * row_bytes);
    p.codes = codes;
    p.scales = scales == nullptr ? nullptr : scales + row * scale_row_bytes;
    p.panels = memory + row / kWidth * w.panel_bytes(kWidth);
    pack_panels_cuda(ctx, p);
  }
  if (w.format() != WeightFormat::fp8) return w;
  int32_t has_nan_codes = 0;
  gpu.copy(&has_nan_codes, p.has_nan_codes, sizeof(int32_t));
  return PackedWeight::packed_at(tensor, has_nan_codes != 0, memory);
}

}  // namespace cachalot::ops
