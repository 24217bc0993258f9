// For tests of the disk tier: records whose every byte follows from a number, and a folder of the
// test's own.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "cache/cache_testing.h"
#include "cache/disk_store.h"

namespace cachalot::cache::testing {

class TestFolder {
 public:
  TestFolder() {
    static int count = 0;
    path_ = ::testing::TempDir() + "cachalot-disk-" + std::to_string(::getpid()) + "-" +
            std::to_string(count++);
    std::filesystem::remove_all(path_);
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::vector<std::string> segments() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      if (entry.path().extension() == ".kv") found.push_back(entry.path().string());
    }
    return found;
  }
  int64_t segment_bytes() const {
    int64_t total = 0;
    for (const std::string& path : segments())
      total += static_cast<int64_t>(std::filesystem::file_size(path));
    return total;
  }
  void lose_index() const {
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      if (entry.path().filename().string().starts_with("index-"))
        std::filesystem::remove(entry.path());
    }
  }

 private:
  std::string path_;
};

inline RecordHeader numbered_header(uint64_t n, RecordKind kind = RecordKind::block) {
  RecordHeader header;
  header.kind = kind;
  header.identity = {1, 2, 3, 4};
  header.parent = {mix(n - 1), n - 1};
  header.key = {mix(n), n};
  header.first_position = static_cast<int64_t>(n) * 16;
  for (int32_t i = 0; i < 16; ++i) header.tokens.push_back(static_cast<int32_t>(n) * 16 + i);
  header.payload_bytes = 1000 + static_cast<int64_t>(mix(n) % 3000);
  return header;
}

inline std::vector<std::byte> numbered_payload(uint64_t n, RecordKind kind = RecordKind::block) {
  std::vector<std::byte> payload(static_cast<size_t>(numbered_header(n).payload_bytes));
  uint64_t bits = n * 2 + (kind == RecordKind::state ? 1 : 0);
  for (size_t i = 0; i < payload.size(); ++i) {
    if (i % 8 == 0) bits = mix(bits);
    payload[i] = static_cast<std::byte>(bits >> (i % 8 * 8));
  }
  return payload;
}

inline bool write_numbered(DiskStore& store, uint64_t n, RecordKind kind = RecordKind::block) {
  return store.write(numbered_header(n, kind), numbered_payload(n, kind)).has_value();
}

// Whether the record is served; a record that is served wrongly fails the test.
inline bool is_served(DiskStore& store, uint64_t n, RecordKind kind = RecordKind::block) {
  const RecordHeader header = numbered_header(n, kind);
  const std::optional<RecordPlace> place = store.find(header.key, kind);
  if (!place) return false;
  std::vector<std::byte> payload(static_cast<size_t>(header.payload_bytes));
  if (!store.read(header, *place, payload)) return false;
  EXPECT_TRUE(payload == numbered_payload(n, kind)) << n;
  return true;
}

}  // namespace cachalot::cache::testing
