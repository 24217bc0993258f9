#include "tensor/dtype.h"

#include <gtest/gtest.h>

namespace cachalot::tensor {
namespace {

// Written out again from reference/forward 7.1 and the container's element names.
struct Row {
  DType dtype;
  const char* name;
  int64_t bytes;
};
constexpr Row kRows[] = {
    {DType::f64, "F64", 8},   {DType::f32, "F32", 4},         {DType::f16, "F16", 2},
    {DType::bf16, "BF16", 2}, {DType::f8_e4m3, "F8_E4M3", 1}, {DType::f8_e8m0, "F8_E8M0", 1},
    {DType::i64, "I64", 8},   {DType::i32, "I32", 4},         {DType::i16, "I16", 2},
    {DType::i8, "I8", 1},     {DType::u8, "U8", 1},           {DType::boolean, "BOOL", 1},
};

TEST(DType, NamesAndSizes) {
  for (const Row& row : kRows) {
    EXPECT_EQ(dtype_name(row.dtype), row.name);
    EXPECT_EQ(dtype_bytes(row.dtype), row.bytes) << row.name;
    EXPECT_EQ(dtype_from_name(row.name), row.dtype) << row.name;
  }
}

TEST(DType, UnknownNamesAreNone) {
  for (const char* name : {"", "bf16", "F8_E5M2", "BF16 ", "F", "I4"}) {
    EXPECT_EQ(dtype_from_name(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace cachalot::tensor
