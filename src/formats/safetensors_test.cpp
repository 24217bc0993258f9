#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>

#include "formats/safetensors_writer.h"

namespace cachalot::formats {
namespace {

using tensor::DType;

std::string image(std::string_view header, size_t data_bytes, uint64_t length) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &length, 8);
  out += header;
  for (size_t i = 0; i < data_bytes; ++i) out += static_cast<char>(i);
  return out;
}
std::string image(std::string_view header, size_t data_bytes) {
  return image(header, data_bytes, header.size());
}

Result<SafetensorsContents> parse(const std::string& text) {
  return parse_safetensors(std::as_bytes(std::span(text)), "f.safetensors");
}

TEST(Safetensors, ReadsTensorsInDataOrder) {
  const std::string text = image(
      R"({"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]},"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"e":{"dtype":"I64","shape":[0,3],"data_offsets":[8,8]}}  )",
      12);
  const auto contents = parse(text);
  ASSERT_TRUE(contents.has_value()) << contents.error().message();
  const auto& tensors = contents.value().tensors;
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[1].name, "e");
  EXPECT_EQ(tensors[2].name, "b");
  EXPECT_EQ(tensors[2].view.shape, (tensor::Shape{2, 1}));
  EXPECT_EQ(tensors[2].view.data[0], std::byte{8});
  EXPECT_EQ(contents.value().metadata.at("format"), "pt");
}

TEST(Safetensors, EveryDType) {
  for (const char* name : {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "I64", "I32", "I16",
                           "I8", "U8", "BOOL"}) {
    const int64_t bytes = 3 * tensor::dtype_bytes(*tensor::dtype_from_name(name));
    const auto contents =
        parse(image("{\"x\":{\"dtype\":\"" + std::string(name) +
                        "\",\"shape\":[3],\"data_offsets\":[0," + std::to_string(bytes) + "]}}",
                    static_cast<size_t>(bytes)));
    ASSERT_TRUE(contents.has_value()) << name << contents.error().message();
    EXPECT_EQ(tensor::dtype_name(contents.value().tensors[0].view.dtype), name);
  }
}

// Tensors that nothing here computes with do not keep a file closed, and come back as they were.
TEST(Safetensors, DTypesThatAreOnlyStored) {
  const std::pair<const char*, int64_t> cases[] = {
      {"F4", 4},          {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E5M2", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"U16", 16},    {"U32", 32},    {"U64", 64},    {"C64", 64}};
  for (const auto& [name, bits] : cases) {
    const int64_t bytes = 3 * 8 * bits / 8;
    const auto text = [dtype = std::string(name)](int64_t end) {
      return image("{\"x\":{\"dtype\":\"" + dtype + "\",\"shape\":[3,8],\"data_offsets\":[0," +
                       std::to_string(end) + "]}}",
                   static_cast<size_t>(end));
    };
    EXPECT_FALSE(parse(text(bytes - 1)).has_value()) << name;
    const auto contents = parse(text(bytes));
    ASSERT_TRUE(contents.has_value()) << name << contents.error().message();
    const NamedTensor& tensor = contents.value().tensors[0];
    EXPECT_EQ(tensor.stored.dtype, name);
    EXPECT_EQ(tensor.stored.shape, (tensor::Shape{3, 8}));
    EXPECT_EQ(tensor.view.num_bytes(), bytes);
    const TensorSpec spec{"x", tensor.view.dtype, tensor.view.shape, tensor.stored};
    const auto again =
        parse(safetensors_header_bytes({spec}, {}) + std::string(static_cast<size_t>(bytes), 'x'));
    ASSERT_TRUE(again.has_value()) << again.error().message();
    EXPECT_EQ(again.value().tensors[0].stored.dtype, name);
    EXPECT_EQ(again.value().tensors[0].stored.shape, (tensor::Shape{3, 8}));
  }
  // FP4 weights as the public files hold them; half a byte is no tensor.
  const auto pairs = parse(image(R"({"x":{"dtype":"F4","shape":[2,6],"data_offsets":[0,6]}})", 6));
  EXPECT_EQ(pairs.value().tensors[0].view.dtype, DType::i8);
  EXPECT_EQ(pairs.value().tensors[0].view.shape, (tensor::Shape{2, 3}));
  EXPECT_TRUE(
      parse(image(R"({"x":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}})", 3)).has_value());
  EXPECT_FALSE(
      parse(image(R"({"x":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2)).has_value());
}

TEST(Safetensors, NullMetadataIsNone) {
  for (const char* header : {R"({"__metadata__":null})", R"({"__metadata__":{"format":null}})"}) {
    const auto contents = parse(image(header, 0));
    ASSERT_TRUE(contents.has_value()) << contents.error().message();
    EXPECT_TRUE(contents.value().metadata.empty());
  }
}

void expect_error(const std::string& text, std::string_view needle) {
  const auto contents = parse(text);
  ASSERT_FALSE(contents.has_value()) << needle;
  EXPECT_NE(contents.error().message().find("f.safetensors"), std::string::npos);
  EXPECT_NE(contents.error().message().find(needle), std::string::npos)
      << contents.error().message();
}

std::string entry(std::string_view shape, std::string_view offsets,
                  std::string_view dtype = "F32") {
  return "{\"w\":{\"dtype\":\"" + std::string(dtype) + "\",\"shape\":" + std::string(shape) +
         ",\"data_offsets\":" + std::string(offsets) + "}}";
}

TEST(Safetensors, LyingLengths) {
  expect_error("", "at least 8");
  expect_error("1234567", "found 7");
  expect_error(image("{}", 0, 3), "a header of 3 bytes, found 2");
  expect_error(image("{}", 0, 100'000'001), "at most 100000000");
  expect_error(image("{}", 0, ~uint64_t{0}), "at most 100000000");
  expect_error(image("{}", 0, 1), "not valid JSON");
  expect_error(image("", 0), "not valid JSON");
  expect_error(image("{}", 5), "expected 0 bytes of data, found 5");
  EXPECT_TRUE(parse(image("{}", 0)).has_value());
}

TEST(Safetensors, LyingOffsets) {
  expect_error(image(entry("[2]", "[0,12]"), 12),
               "tensor w: data_offsets: expected 8 bytes for [2] of F32, found [0, 12]");
  expect_error(image(entry("[2]", "[8,0]"), 8), "found [8, 0]");
  expect_error(image(entry("[2]", "[0,8]"), 7), "tensor w: expected data up to byte 8, found 7");
  expect_error(image(entry("[2]", "[4,12]"), 12), "hole");
  expect_error(image(entry("[2]", "[0,8]"), 9), "expected 8 bytes of data, found 9");
  expect_error(image(entry("[2]", "[18446744073709551608,0]"), 8), "below 2^63");
  expect_error(image(entry("[2]", "[9223372036854775800,9223372036854775807]"), 8), "tensor w");
  expect_error(
      image(
          R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
          6),
      "tensor b: expected its data at byte 4, where the tensor before it ends, found 2 (overlap)");
}

TEST(Safetensors, LyingShapes) {
  expect_error(image(entry("[4611686018427387904,4]", "[0,8]"), 8),
               "tensor w: expected a size below 2^63");
  expect_error(image(entry("[9223372036854775807,9223372036854775807,0]", "[0,0]"), 0),
               "below 2^63");
  expect_error(image(entry("[-1]", "[0,8]"), 8), "found -1");
  expect_error(image(entry("[1e9]", "[0,8]"), 8), "integers");
  expect_error(image(entry("[\"2\"]", "[0,8]"), 8), "found a string");
  expect_error(image(entry("[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8), "at most 8 axes");
  expect_error(image(entry("2", "[0,8]"), 8), "found a number");
  expect_error(image(entry("[[2]]", "[0,8]"), 8), "found an array");
  expect_error(image(entry("[2]", "[0]"), 8), "expected two offsets, found 1");
  expect_error(image(entry("[2]", "[0,8,8]"), 8), "expected two offsets, found 3");
}

TEST(Safetensors, WrongStructure) {
  expect_error(image(entry("[2]", "[0,8]", "F7"), 8),
               "tensor w: dtype: expected a known one (F32, BF16, F8_E4M3, ...), found F7");
  expect_error(image(R"({"w":{"dtype":"F32","shape":[2]}})", 8),
               "tensor w: expected dtype, shape and data_offsets, found no data_offsets");
  expect_error(image(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"extra":1}})", 8),
               "found extra");
  expect_error(image(R"({"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
               "dtype twice");
  expect_error(image(R"({"w":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}})", 8),
               "shape twice");
  expect_error(image(R"({"w":5})", 8), "expected an object per tensor, found a number");
  expect_error(image(R"({"w":null})", 8), "found null");
  expect_error(image("[]", 0), "expected an object, found an array");
  expect_error(image("7", 0), "expected an object");
  expect_error(image(R"({"__metadata__":{"a":1}})", 0), "expected strings, found a number");
  expect_error(image(R"({"__metadata__":{"a":{}}})", 0), "expected strings, found an object");
  expect_error(image("{} x", 0), "header:");
  expect_error(image("{" + std::string(1000, '['), 0), "header:");
  expect_error(image(std::string(100000, '['), 0), "header:");
  std::string nested = "{\"w\":";
  for (int i = 0; i < 10000; ++i) nested += "{\"a\":";
  expect_error(image(nested, 0), "header:");
  expect_error(
      image(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          2),
      "tensor a: expected each name once");
}

TEST(Safetensors, EveryTruncationAndEveryFlippedBitIsAnErrorOrAValidFile) {
  const std::string good = image(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"I8","shape":[3,2],"data_offsets":[8,14]}})",
      14);
  ASSERT_TRUE(parse(good).has_value());
  for (size_t n = 0; n < good.size(); ++n) EXPECT_FALSE(parse(good.substr(0, n)).has_value()) << n;
  for (size_t byte = 0; byte < good.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[byte] = static_cast<char>(bad[byte] ^ (1 << bit));
      const auto contents =
          parse(bad);  // must not crash; where it is accepted, the views lie inside the file
      if (!contents.has_value()) continue;
      for (const NamedTensor& t : contents.value().tensors) {
        const auto* begin = reinterpret_cast<const std::byte*>(bad.data());
        EXPECT_GE(t.view.data, begin);
        EXPECT_LE(t.view.data + t.view.num_bytes(), begin + bad.size());
      }
    }
  }
}

// Writing.

class StringSink : public Sink {
 public:
  explicit StringSink(size_t room = ~size_t{0}) : room_(room) {}
  Status write(std::span<const std::byte> bytes) override {
    if (bytes.size() > room_) return resource_exhausted("sink: no space left");
    room_ -= bytes.size();
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return {};
  }
  std::string text;

 private:
  size_t room_;
};

const std::vector<TensorSpec>& some_specs() {
  static const std::vector<TensorSpec> specs = {
      {"x\"y\\\n\xc3\xa9", DType::f32, {2, 2}}, {"empty", DType::bf16, {0}}, {"z", DType::i8, {5}}};
  return specs;
}

Status write_all(Sink* sink) {
  CACHALOT_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                            SafetensorsWriter::begin(sink, some_specs(), {{"a", "b"}}));
  const std::vector<std::byte> data(21, std::byte{7});
  for (size_t i = 0; i < data.size(); i += 3)
    CACHALOT_RETURN_IF_ERROR(writer.write(std::span(data).subspan(i, 3)));
  return writer.finish();
}

TEST(SafetensorsWriter, WhatIsWrittenIsRead) {
  StringSink sink;
  ASSERT_TRUE(write_all(&sink).ok());
  const auto contents = parse(sink.text);
  ASSERT_TRUE(contents.has_value()) << contents.error().message();
  ASSERT_EQ(contents.value().tensors.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(contents.value().tensors[i].name, some_specs()[i].name);
    EXPECT_EQ(contents.value().tensors[i].view.dtype, some_specs()[i].dtype);
    EXPECT_EQ(contents.value().tensors[i].view.shape, some_specs()[i].shape);
  }
  EXPECT_EQ(contents.value().metadata.at("a"), "b");
  EXPECT_EQ((sink.text.size() - 21) % 8, 0u);
  StringSink again;
  ASSERT_TRUE(write_all(&again).ok());
  EXPECT_EQ(again.text, sink.text);
}

TEST(SafetensorsWriter, EveryFullDiskIsReported) {
  StringSink whole;
  ASSERT_TRUE(write_all(&whole).ok());
  for (size_t room = 0; room < whole.text.size(); ++room) {
    StringSink sink(room);
    EXPECT_EQ(write_all(&sink).code(), StatusCode::resource_exhausted) << room;
  }
}

TEST(SafetensorsWriter, MissingBytesAndDoubleNamesAreErrors) {
  StringSink sink;
  auto writer = SafetensorsWriter::begin(&sink, some_specs(), {});
  ASSERT_TRUE(writer.has_value());
  EXPECT_EQ(writer->finish().code(), StatusCode::data_loss);
  EXPECT_FALSE(SafetensorsWriter::begin(&sink, {{"a", DType::i8, {1}}, {"a", DType::i8, {1}}}, {})
                   .has_value());
}

}  // namespace
}  // namespace cachalot::formats
