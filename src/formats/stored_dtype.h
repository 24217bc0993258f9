// Element types that files hold and nothing here computes with.
// Source  the dtypes of the safetensors format that tensor/dtype.h does not have.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "tensor/tensor_view.h"

namespace cachalot::formats {

// How a header spells a tensor whose dtype is such a one. F4 (a pair of e2m1 codes a byte, low
// nibble first) counts codes, not bytes.
struct StoredAs {
  std::string_view dtype;  // a name of the table, valid forever; empty: the view says it all
  tensor::Shape shape;
};

struct StoredDType {
  std::string_view name;
  int64_t bits;  // of an element
};

// Nothing for names that are not in the table.
std::optional<StoredDType> stored_dtype(std::string_view name);

// The view of such a tensor: of F4 the I8 pairs that public files hold where the last axis is even;
// of all else the bytes. Its data is the caller's to set.
tensor::TensorView stored_view(const StoredAs& stored, int64_t num_bytes);

}  // namespace cachalot::formats
