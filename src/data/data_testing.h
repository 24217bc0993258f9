// For tests: documents in memory, and a folder that goes away.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "data/token_source.h"

namespace cachalot::data {

class MemorySource final : public TokenSource {
 public:
  explicit MemorySource(std::vector<std::vector<int32_t>> documents)
      : documents_(std::move(documents)) {}
  const std::string& name() const override { return name_; }
  int64_t num_documents() const override { return static_cast<int64_t>(documents_.size()); }
  int64_t num_tokens() const override {
    int64_t total = 0;
    for (const auto& document : documents_) total += static_cast<int64_t>(document.size());
    return total;
  }
  int64_t vocab_size() const override { return int64_t{1} << 30; }
  int64_t document_length(int64_t document) const override {
    return static_cast<int64_t>(documents_[static_cast<size_t>(document)].size());
  }
  Status read(int64_t document, int64_t begin, std::span<int32_t> out) const override {
    const auto& ids = documents_[static_cast<size_t>(document)];
    std::copy_n(ids.begin() + begin, out.size(), out.begin());
    return {};
  }
  uint64_t fingerprint() const override { return documents_.size(); }

 private:
  std::string name_ = "memory";
  std::vector<std::vector<int32_t>> documents_;
};

// Token k of document d is d * 1000 + k: every token tells where it came from.
inline std::vector<int32_t> telling_document(int64_t d, int64_t length) {
  std::vector<int32_t> ids;
  for (int64_t k = 0; k < length; ++k) ids.push_back(static_cast<int32_t>(d * 1000 + k));
  return ids;
}

class DataFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              ("cachalot-" + std::string(info->test_suite_name()) + info->name() +
               std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::filesystem::path folder_;
};

}  // namespace cachalot::data
