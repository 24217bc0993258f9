// Element types, with the spellings of safetensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace cachalot::tensor {

// fp4 is a packed pair of e2m1 codes (low nibble first): the public files store it as I8, and a
// config says which I8 tensors are pairs. Its shapes here count bytes, as the files do.
enum class DType { f64, f32, f16, bf16, f8_e4m3, f8_e8m0, i64, i32, i16, i8, u8, boolean };

int64_t dtype_bytes(DType dtype);
std::string_view dtype_name(DType dtype);  // "BF16", "F8_E4M3", ...
std::optional<DType> dtype_from_name(std::string_view name);

}  // namespace cachalot::tensor
