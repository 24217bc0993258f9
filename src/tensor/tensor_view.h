// A read-only, contiguous, row-major array of any element type, as files hold it. Owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "tensor/dtype.h"

namespace cachalot::tensor {

using Shape = std::vector<int64_t>;

int64_t num_elements(const Shape& shape);
std::string shape_string(const Shape& shape);  // "[2, 3]"

struct TensorView {
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;

  int64_t num_elements() const { return tensor::num_elements(shape); }
  int64_t num_bytes() const { return num_elements() * dtype_bytes(dtype); }
  std::span<const std::byte> bytes() const { return {data, static_cast<size_t>(num_bytes())}; }
  // The elements as T; the caller has checked dtype. T's alignment is a caller's promise too:
  // safetensors data may start at any byte, so readers of files copy with memcpy (see to_floats).
  template <typename T>
  const T* as() const {
    CACHALOT_DCHECK(static_cast<int64_t>(sizeof(T)) == dtype_bytes(dtype));
    return reinterpret_cast<const T*>(data);
  }
  // Index `i` of the first axis.
  TensorView slice(int64_t i) const;
};

// Elements as floats, exactly (f64 and 64-bit integers round). Takes any dtype.
std::vector<float> to_floats(const TensorView& view);

// Elements of an integer tensor (I64, I32, I16, I8, U8, BOOL) as int64; CHECK on others.
std::vector<int64_t> to_integers(const TensorView& view);

// A weight matrix [rows, columns] in any of the checkpoint's formats: `weight` F32, BF16, F16,
// F8_E4M3, or I8 holding FP4 pairs [rows, columns / 2]; `scale` null (data == nullptr), or F8_E8M0
// / F32 with one entry per block of block_rows x block_columns, [ceil(rows / block_rows),
// ceil(columns / block_columns)]. Value: decode(weight) * scale. Source: reference/forward 7.3.
struct QuantTensor {
  TensorView weight;
  TensorView scale;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t block_rows = 0;
  int64_t block_columns = 0;

  bool is_fp4() const { return weight.dtype == DType::i8; }
  bool has_scale() const { return scale.data != nullptr; }
  int64_t num_bytes() const { return weight.num_bytes() + (has_scale() ? scale.num_bytes() : 0); }
};

// The dequantised matrix in fp32: exact for every format of the public files.
std::vector<float> dequantize(const QuantTensor& tensor);

}  // namespace cachalot::tensor
