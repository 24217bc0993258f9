#include "model/packed_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "formats/test_checkpoint.h"

namespace cachalot::model {
namespace {

constexpr char kIdentity[] = "layout 1\na checkpoint\n";

class PackedFileTest : public testing::Test {
 protected:
  PackedFileTest() : directory_("packed-file"), path_(directory_.path("p")) {
    for (const size_t size : {64, 1000, 1, 128}) {
      parts_.emplace_back(size);
      for (size_t i = 0; i < size; ++i) parts_.back()[i] = static_cast<std::byte>(i * 7 + size);
    }
    for (size_t i = 0; i < parts_.size(); ++i) matrices_.push_back({parts_[i], i == 1});
  }
  void SetUp() override {
    const PackedOrigin origin{kIdentity, 42};
    Result<AtomicFile> file = AtomicFile::create(path_);
    ASSERT_TRUE(file.has_value());
    ASSERT_TRUE(write_packed_file(*file, origin, matrices_).ok());
    ASSERT_TRUE(file->commit().ok());
    image_ = *read_text_file(path_);
    EXPECT_EQ(static_cast<int64_t>(image_.size()), packed_file_bytes(origin, matrices_));
  }
  StatusCode opened(const std::string& image, const std::string& identity = kIdentity) {
    EXPECT_TRUE(write_file_atomically(path_, image).ok());
    const Result<PackedFile> file = PackedFile::open(path_, identity);
    if (file) return StatusCode::ok;
    EXPECT_NE(file.error().message().find(path_), std::string::npos) << file.error().message();
    return file.error().code();
  }

  formats::TemporaryDirectory directory_;
  std::string path_, image_;
  std::vector<std::vector<std::byte>> parts_;
  std::vector<PackedMatrix> matrices_;
};

TEST_F(PackedFileTest, GivesBackWhatWasWritten) {
  const Result<PackedFile> file = PackedFile::open(path_, kIdentity);
  ASSERT_TRUE(file.has_value()) << file.error().message();
  EXPECT_EQ(file->weights_fingerprint(), 42u);
  ASSERT_EQ(file->matrices().size(), parts_.size());
  for (size_t i = 0; i < parts_.size(); ++i) {
    const PackedMatrix& matrix = file->matrices()[i];
    EXPECT_TRUE(std::ranges::equal(matrix.bytes, parts_[i])) << i;
    EXPECT_EQ(matrix.has_nan_codes, i == 1);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix.bytes.data()) % 64, 0u);
  }
}

TEST_F(PackedFileTest, OneOfAnotherCheckpointIsRefused) {
  EXPECT_EQ(opened(image_), StatusCode::ok);
  EXPECT_EQ(opened(image_, "layout 2\na checkpoint\n"), StatusCode::data_loss);
  EXPECT_EQ(opened(image_, ""), StatusCode::data_loss);
}

TEST_F(PackedFileTest, ATornOneIsRefused) {
  for (size_t size = 0; size < image_.size(); size += size < 200 ? 1 : 61)
    EXPECT_EQ(opened(image_.substr(0, size)), StatusCode::data_loss) << size;
  EXPECT_EQ(opened(image_ + '\0'), StatusCode::data_loss);
  EXPECT_EQ(opened(std::string(image_.size(), '\0')), StatusCode::data_loss);
}

TEST_F(PackedFileTest, EveryByteBeforeTheDataCounts) {
  for (size_t i = 0; i < 4096; i += i < 200 ? 1 : 97) {
    for (const int flip : {1, 0x80}) {
      std::string changed = image_;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      EXPECT_EQ(opened(changed), StatusCode::data_loss) << i;
    }
  }
}

}  // namespace
}  // namespace cachalot::model
