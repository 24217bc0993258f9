// The JSON header of a .safetensors file, read in one pass without building a document.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "formats/stored_dtype.h"
#include "tensor/dtype.h"
#include "tensor/tensor_view.h"

namespace cachalot::formats {

struct HeaderEntry {
  std::string name;
  tensor::DType dtype = tensor::DType::f32;
  std::optional<StoredDType> stored;  // instead of dtype
  tensor::Shape shape;
  uint64_t begin = 0;  // bytes from the end of the header
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;  // in the header's order
  std::map<std::string, std::string> metadata;
};

// Checks syntax, key names, types and dtypes; offsets and duplicates are the caller's.
Result<SafetensorsHeader> parse_safetensors_header(std::string_view text, std::string_view origin);

}  // namespace cachalot::formats
