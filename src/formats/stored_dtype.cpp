#include "formats/stored_dtype.h"

#include <array>

namespace cachalot::formats {
namespace {
constexpr std::string_view kFp4 = "F4";
constexpr std::array kStored = {
    StoredDType{kFp4, 4},      StoredDType{"F6_E2M3", 6},     StoredDType{"F6_E3M2", 6},
    StoredDType{"F8_E5M2", 8}, StoredDType{"F8_E4M3FNUZ", 8}, StoredDType{"F8_E5M2FNUZ", 8},
    StoredDType{"U16", 16},    StoredDType{"U32", 32},        StoredDType{"U64", 64},
    StoredDType{"C64", 64},
};
}  // namespace

std::optional<StoredDType> stored_dtype(std::string_view name) {
  for (const StoredDType& entry : kStored) {
    if (entry.name == name) return entry;
  }
  return std::nullopt;
}

tensor::TensorView stored_view(const StoredAs& stored, int64_t num_bytes) {
  if (stored.dtype == kFp4 && !stored.shape.empty() && stored.shape.back() % 2 == 0) {
    tensor::TensorView pairs{tensor::DType::i8, stored.shape, nullptr};
    pairs.shape.back() /= 2;
    return pairs;
  }
  return {tensor::DType::u8, {num_bytes}, nullptr};
}

}  // namespace cachalot::formats
