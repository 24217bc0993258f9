#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <fstream>

#include "data/data_testing.h"
#include "data/megatron_source.h"
#include "data/nanogpt_source.h"

namespace cachalot::data {
namespace {

template <typename T>
void put(std::vector<std::byte>& bytes, T value) {
  const auto* first = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), first, first + sizeof(T));
}
template <typename T>
void put_at(std::vector<std::byte>& bytes, size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

std::vector<std::vector<int32_t>> documents(const TokenSource& source) {
  std::vector<std::vector<int32_t>> all;
  int64_t num_tokens = 0;
  for (int64_t d = 0; d < source.num_documents(); ++d) {
    std::vector<int32_t> ids(static_cast<size_t>(source.document_length(d)));
    EXPECT_TRUE(source.read(d, 0, ids).ok());
    for (size_t begin = 1; begin <= ids.size(); ++begin) {
      std::vector<int32_t> rest(ids.size() - begin);
      EXPECT_TRUE(source.read(d, static_cast<int64_t>(begin), rest).ok());
      EXPECT_EQ(rest,
                std::vector<int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end()));
    }
    num_tokens += static_cast<int64_t>(ids.size());
    all.push_back(std::move(ids));
  }
  EXPECT_EQ(num_tokens, source.num_tokens());
  return all;
}
using Ids = std::vector<std::vector<int32_t>>;

template <typename T>
std::vector<std::byte> nanogpt(int32_t magic, int32_t version, const std::vector<T>& ids) {
  std::vector<std::byte> bytes;
  if (magic != 0) {
    put(bytes, magic);
    put(bytes, version);
    put(bytes, static_cast<int32_t>(ids.size()));
    bytes.resize(1024);
  }
  for (const T id : ids) put(bytes, id);
  return bytes;
}

TEST(NanogptSource, ReadsAllForms) {
  const std::vector<uint16_t> narrow = {7, 65535, 9, 8};
  for (const auto& bytes :
       {nanogpt<uint16_t>(0, 0, narrow), nanogpt<uint16_t>(20240520, 1, narrow)}) {
    const auto source = NanogptSource::from_bytes(bytes, "x", {});
    ASSERT_TRUE(source.has_value()) << source.error().to_string();
    EXPECT_EQ(documents(**source), (Ids{{7, 65535, 9, 8}}));
  }
  const auto bytes = nanogpt<uint32_t>(20240801, 7, {128000, 5, 128000});
  EXPECT_EQ(documents(**NanogptSource::from_bytes(bytes, "x", {.vocab_size = 129280})),
            (Ids{{128000, 5, 128000}}));
  EXPECT_TRUE(documents(**NanogptSource::from_bytes({}, "x", {})).empty());
}

TEST(NanogptSource, SeparatorsCutDocuments) {
  const auto bytes = nanogpt<uint16_t>(0, 0, {50256, 1, 2, 50256, 50256, 3});
  EXPECT_EQ(documents(**NanogptSource::from_bytes(bytes, "x", {.separator = 50256})),
            (Ids{{50256}, {1, 2, 50256}, {50256}, {3}}));
  EXPECT_EQ(documents(**NanogptSource::from_bytes(
                bytes, "x", {.separator = 50256, .separator_is_first = true})),
            (Ids{{50256, 1, 2}, {50256}, {50256, 3}}));
}

TEST(NanogptSource, WrongFilesAreRefused) {
  const std::vector<uint16_t> ids = {1, 2, 3};
  auto odd = nanogpt<uint16_t>(0, 0, ids);
  odd.pop_back();
  EXPECT_EQ(NanogptSource::from_bytes(odd, "x", {}).error().code(), StatusCode::data_loss);
  const auto version = nanogpt<uint16_t>(20240520, 2, ids);
  EXPECT_EQ(NanogptSource::from_bytes(version, "x", {}).error().code(), StatusCode::unsupported);
  auto cut = nanogpt<uint16_t>(20240520, 1, ids);
  cut.resize(cut.size() - 2);
  EXPECT_EQ(NanogptSource::from_bytes(cut, "x", {}).error().message(),
            "x: expected 3 tokens, found 2");
  EXPECT_FALSE(NanogptSource::from_bytes({}, "x", {.vocab_size = 10, .separator = 10}).has_value());
  const auto source =
      NanogptSource::from_bytes(odd = nanogpt<uint16_t>(0, 0, ids), "x", {.vocab_size = 3});
  std::vector<int32_t> out(3);
  EXPECT_EQ((*source)->read(0, 0, out).message(), "x: token 2: expected an id in [0, 3), found 3");
}

// Three documents of 2, 0 and 1 sequences; the sequences lie in another order in the ids' file.
template <typename T>
std::pair<std::vector<std::byte>, std::vector<std::byte>> megatron(uint8_t code,
                                                                   bool modes = false) {
  std::vector<std::byte> bin;
  for (const int id : {30, 31, 10, 11, 12, 20}) put(bin, static_cast<T>(id));
  std::vector<std::byte> index;
  for (const char c : std::string_view("MMIDIDX\0\0", 9)) put(index, c);
  put(index, uint64_t{1});
  put(index, code);
  put(index, uint64_t{3});
  put(index, uint64_t{4});
  for (const int32_t length : {3, 1, 2}) put(index, length);
  for (const int64_t first : {2, 5, 0}) put(index, first * static_cast<int64_t>(sizeof(T)));
  for (const int64_t d : {0, 2, 2, 3}) put(index, d);
  if (modes) index.resize(index.size() + 3);
  return {index, bin};
}

TEST(MegatronSource, ReadsAllTypes) {
  const std::pair<std::vector<std::byte>, std::vector<std::byte>> files[] = {
      megatron<uint8_t>(1), megatron<int8_t>(2),   megatron<int16_t>(3),       megatron<int32_t>(4),
      megatron<int64_t>(5), megatron<uint16_t>(8), megatron<uint16_t>(8, true)};
  for (const auto& [index, bin] : files) {
    const auto source = MegatronSource::from_bytes(index, bin, "x", 100);
    ASSERT_TRUE(source.has_value()) << source.error().to_string();
    EXPECT_EQ(documents(**source), (Ids{{10, 11, 12, 20}, {}, {30, 31}}));
  }
}

TEST(MegatronSource, WrongFilesAreRefused) {
  const auto [index, bin] = megatron<uint16_t>(8);
  const auto with = [&, &index = index, &bin = bin](size_t offset, auto value) {
    std::vector<std::byte> bad = index;
    put_at(bad, offset, value);
    return MegatronSource::from_bytes(bad, bin, "x", 100);
  };
  ASSERT_TRUE(with(18, uint64_t{3}).has_value());
  EXPECT_EQ(with(0, 'T').error().code(), StatusCode::invalid_argument);
  EXPECT_EQ(with(0, std::array<char, 8>{'T', 'N', 'T', 'I', 'D', 'X', 0, 0}).error().code(),
            StatusCode::unsupported);
  EXPECT_EQ(with(9, uint64_t{2}).error().code(), StatusCode::unsupported);
  for (const uint8_t code : {0, 6, 7, 9}) {
    EXPECT_EQ(with(17, code).error().code(), StatusCode::unsupported);
  }
  EXPECT_EQ(with(17, uint8_t{4}).error().code(), StatusCode::data_loss);  // ids beyond the file
  EXPECT_FALSE(with(18, uint64_t{1} << 62).has_value());
  EXPECT_FALSE(with(26, uint64_t{1} << 61).has_value());
  EXPECT_FALSE(with(26, uint64_t{0}).has_value());
  EXPECT_FALSE(with(34, int32_t{-1}).has_value());
  EXPECT_FALSE(with(34, int32_t{5}).has_value());
  EXPECT_FALSE(with(46, int64_t{-2}).has_value());
  EXPECT_FALSE(with(46, int64_t{1} << 62).has_value());
  EXPECT_FALSE(with(70, int64_t{1}).has_value());
  EXPECT_FALSE(with(78, int64_t{4}).has_value());
  EXPECT_FALSE(with(86, int64_t{1}).has_value());
  EXPECT_FALSE(with(94, int64_t{2}).has_value());
  for (size_t size = 0; size < index.size(); ++size) {
    EXPECT_FALSE(
        MegatronSource::from_bytes(std::span(index).first(size), bin, "x", 100).has_value());
  }
  const auto source = MegatronSource::from_bytes(index, bin, "x", 20);
  std::vector<int32_t> out(4);
  EXPECT_EQ((*source)->read(0, 0, out).message(),
            "x: token 3: expected an id in [0, 20), found 20");
}

class ForeignFiles : public DataFiles {};
TEST_F(ForeignFiles, AreMapped) {
  const auto write = [&](const std::string& name, const std::vector<std::byte>& bytes) {
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  };
  const auto [index, bin] = megatron<int32_t>(4);
  write("corpus.idx", index);
  write("corpus.bin", bin);
  EXPECT_EQ(documents(**MegatronSource::open(path("corpus"), 100)),
            (Ids{{10, 11, 12, 20}, {}, {30, 31}}));
  EXPECT_EQ(MegatronSource::open(path("none"), 100).error().code(), StatusCode::not_found);
  write("train.bin", nanogpt<uint16_t>(0, 0, {4, 5}));
  EXPECT_EQ(documents(**NanogptSource::open(path("train.bin"), {})), (Ids{{4, 5}}));
}

// A cursor into other content of the same size would go on with other data.
TEST_F(ForeignFiles, TheFingerprintIsOfEveryToken) {
  std::vector<uint16_t> ids(5000, 7);
  const auto fingerprint = [&] {
    const auto bytes = nanogpt<uint16_t>(20240520, 1, ids);
    std::ofstream(path("one.bin"), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    const uint64_t of_file = (*NanogptSource::open(path("one.bin"), {}))->fingerprint();
    EXPECT_EQ((*NanogptSource::from_bytes(bytes, "x", {}))->fingerprint(), of_file);
    return of_file;
  };
  const uint64_t first = fingerprint();
  for (const size_t place : {size_t{0}, size_t{2500}, size_t{4999}}) {
    ids[place] = 8;
    EXPECT_NE(fingerprint(), first) << place;
    ids[place] = 7;
  }
  EXPECT_EQ(fingerprint(), first);

  auto [index, bin] = megatron<uint16_t>(8);
  const uint64_t all = (*MegatronSource::from_bytes(index, bin, "x", 100))->fingerprint();
  bin.back() = std::byte{1};
  EXPECT_NE((*MegatronSource::from_bytes(index, bin, "x", 300))->fingerprint(), all);
}

}  // namespace
}  // namespace cachalot::data
