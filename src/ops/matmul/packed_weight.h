// Weight matrices as the matrix products read them: cut into panels of up to 64 outputs (matrix
// rows), each panel one contiguous stream along the inputs, at the byte size of the checkpoint.
// Packed when a model is loaded; in training again, from the f32 master weights, after every
// optimizer step.
// Source  reference/forward 7.3.
// Layout  docs/kernels/matmul.md. With `lane` the output within its panel, w the panel's width, K'
//         the padded inputs:
//         f32   float   [K][w]
//         bf16  uint16  [K'/2][w][2]
//               K' even
//         fp8   byte    [K'/4][w][4], scales float [ceil(K/128)] per panel
//               K' multiple of 4
//         fp4   per 32 inputs: w e8m0 bytes, then [4 runs of 8 inputs][w/8 octets of lanes][32]
//               K' multiple of 32 byte b of an octet: lane 4*(b/16) + b%8/2; low nibble input
//               2*(b%16/8) + b%2, high nibble four later
//         Every panel is 64 wide but the last, which is 16, 32, 48 or 64; lanes and inputs beyond
//         the matrix are zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/check.h"
#include "base/status.h"
#include "device/exec_context.h"
#include "tensor/tensor_view.h"

namespace cachalot::ops {

enum class WeightFormat { f32, bf16, fp8, fp4 };
std::string_view weight_format_name(WeightFormat format);

// Inputs that share one scale, and so one accumulation group; 0 where the format has no scales.
constexpr int64_t scale_group(WeightFormat format) {
  return format == WeightFormat::fp8 ? 128 : format == WeightFormat::fp4 ? 32 : 0;
}

// A row-major matrix of floats in memory.
struct FloatMatrix {
  const float* data;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
};

// Owns the packed bytes, but where they were packed into a caller's memory. Between packings any
// number of threads may read it.
class PackedWeight {
 public:
  static constexpr int64_t kPanelWidth = 64;
  // Raised with every change of what pack() leaves in memory: files of packed bytes are kept.
  static constexpr int kLayoutVersion = 1;

  // F32 and F16 (widened) become f32; BF16 bf16; F8_E4M3 with F8_E8M0 or F32 scales per 128 x 128
  // fp8; I8 pairs with F8_E8M0 scales per 1 x 32 fp4. Source bytes may have any alignment and are
  // not needed afterwards.
  // Errors  invalid_argument: shapes that disagree, a scale that is missing, NaN (e8m0 255) or not
  //         finite; unsupported: another dtype or block; resource_exhausted. Messages give expected
  //         and found; the caller adds the tensor's name.
  static Result<PackedWeight> pack(device::ExecContext& ctx, const tensor::QuantTensor& tensor);

  // The same into `memory`: aligned to 64 bytes, with room for packed_bytes(), and outliving the
  // weight. Every byte of it is written once. The bytes depend on the tensor alone, not on the
  // instruction set or the thread count.
  static Result<int64_t> packed_bytes(const tensor::QuantTensor& tensor);
  static Result<PackedWeight> pack_into(device::ExecContext& ctx, const tensor::QuantTensor& tensor,
                                        std::byte* memory);
  // What pack_into() made of the tensor, or of one with its shape and format, and has_nan_codes()
  // then. Reads neither bytes nor scales.
  static Result<PackedWeight> packed_at(const tensor::QuantTensor& tensor, bool has_nan_codes,
                                        const std::byte* memory);
  // What was packed, packed_bytes() of it.
  std::span<const std::byte> bytes() const {
    CACHALOT_DCHECK(on_gpu_ == OnGpu::panels);
    return {data_, static_cast<size_t>(scales_offset() + scales_bytes())};
  }

  // Into the GPU's memory, which the products of a context with it read: the same bytes, or
  // streamed for its tensor cores (ops/matmul/streamed_weight.h), whose sums run as
  // streamed_product.cuh and bf16_product_cuda.h say. CHECK: streamed, but can_stream() is false.
  enum class OnGpu {
    panels,
    streamed,       // the products with fp8 quantise x as ACT8
    streamed_bf16,  // and take x as it is, as those with bf16 always do
  };
  Status move_to(device::Gpu& gpu, OnGpu form = OnGpu::panels);
  bool can_stream() const {
    return (format_ == WeightFormat::fp8 && columns_ % 128 == 0) ||
           (format_ == WeightFormat::bf16 && columns_ % 16 == 0);
  }
  OnGpu on_gpu() const { return on_gpu_; }
  const std::byte* streamed_bytes() const { return data_; }

  // Becomes W or its transpose as an f32 weight, or as a bf16 one (nearest even). The transpose is
  // what the gradient of x multiplies with (matmul_backward.h). Keeps its memory where the size
  // stays the same; a caller's memory it leaves. CHECK: another format, an empty matrix.
  void assign(device::ExecContext& ctx, WeightFormat format, const FloatMatrix& w);
  void assign_transposed(device::ExecContext& ctx, WeightFormat format, const FloatMatrix& w);

  // fp8: sums run over 32 inputs before their scale, as those of an fp4 weight do (matmul.h), or
  // over 128 again. Where an fp8 weight holds the values of an fp4 one, scales being powers of two,
  // 32 makes its products have the bits of the fp4 weight's.
  void set_sum_group(int64_t inputs);

  int64_t rows() const { return rows_; }        // N
  int64_t columns() const { return columns_; }  // K
  WeightFormat format() const { return format_; }
  int64_t num_bytes() const { return rows_ == 0 ? 0 : panels_bytes() + scales_bytes(); }

  // Inputs that are summed before their scale is applied: scale_group(format()), or what
  // set_sum_group() says.
  int64_t sum_group() const { return sum_group_; }

  // For the kernels.
  int64_t padded_columns() const { return padded_columns_; }
  bool has_nan_codes() const {
    return has_nan_codes_;
  }  // fp8: the fast decoders take every code but NaN
  int64_t num_panels() const { return (rows_ + kPanelWidth - 1) / kPanelWidth; }
  int64_t panel_width(int64_t panel) const {
    const int64_t left = rows_ - panel * kPanelWidth;
    return left >= kPanelWidth ? kPanelWidth : (left + 15) / 16 * 16;
  }
  const std::byte* panel(int64_t panel) const { return data_ + panel * panel_bytes(kPanelWidth); }
  const float* panel_scales(int64_t panel) const;  // fp8; null otherwise
  int64_t panel_bytes(int64_t width) const;

  // One weight before its scale, exact; and the scale of one group of inputs. Slow: for the
  // reference.
  float code_value(int64_t row, int64_t column) const;
  float scale(int64_t row, int64_t group) const;

 private:
  static Result<PackedWeight> shaped(const tensor::QuantTensor& tensor);
  Status fill(device::ExecContext& ctx, const tensor::QuantTensor& tensor, std::byte* memory);
  std::byte* resize(WeightFormat format, int64_t rows, int64_t columns);
  // The panels, one after the other; then, at the next multiple of 64, the scales of fp8.
  int64_t panels_bytes() const;
  int64_t scales_bytes() const;
  int64_t scales_offset() const { return (panels_bytes() + 63) / 64 * 64; }

  int64_t rows_ = 0;
  int64_t columns_ = 0;
  int64_t padded_columns_ = 0;
  int64_t sum_group_ = 0;
  WeightFormat format_ = WeightFormat::f32;
  bool has_nan_codes_ = false;
  OnGpu on_gpu_ = OnGpu::panels;
  const std::byte* data_ = nullptr;
  device::Buffer owned_;  // where data_ points, but for a caller's memory
};

}  // namespace cachalot::ops
