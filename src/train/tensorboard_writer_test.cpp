// TensorBoard's files, read back record by record.
#include "train/tensorboard_writer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <optional>

#include "data/data_testing.h"

namespace cachalot::train {
namespace {

template <typename T>
T take(std::string_view& bytes) {
  T value{};
  EXPECT_GE(bytes.size(), sizeof(T));
  if (bytes.size() < sizeof(T)) return value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes.remove_prefix(sizeof(T));
  return value;
}

std::string_view take_bytes(std::string_view& bytes, size_t count) {
  EXPECT_GE(bytes.size(), count);
  const std::string_view out = bytes.substr(0, count);
  bytes.remove_prefix(std::min(count, bytes.size()));
  return out;
}

uint64_t take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const uint8_t byte = take<uint8_t>(bytes);
    value |= uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
}

struct Event {
  double wall_time = 0;
  uint64_t step = 0;
  std::string version;
  uint64_t session_status = 0;
  std::vector<std::pair<std::string, float>> values;
};

std::pair<std::string, float> parse_value(std::string_view bytes) {
  std::pair<std::string, float> out;
  while (!bytes.empty()) {
    const uint64_t key = take_varint(bytes);
    if (key == (1 << 3 | 2)) {
      out.first = take_bytes(bytes, take_varint(bytes));
    } else {
      EXPECT_EQ(key, 2u << 3 | 5u);
      out.second = take<float>(bytes);
    }
  }
  return out;
}

Event parse_event(std::string_view bytes) {
  Event event;
  while (!bytes.empty()) {
    const uint64_t key = take_varint(bytes);
    if (key == (1 << 3 | 1)) {
      event.wall_time = take<double>(bytes);
    } else if (key == (2 << 3 | 0)) {
      event.step = take_varint(bytes);
    } else if (key == (3 << 3 | 2)) {
      event.version = take_bytes(bytes, take_varint(bytes));
    } else if (key == (7 << 3 | 2)) {
      std::string_view session = take_bytes(bytes, take_varint(bytes));
      EXPECT_EQ(take_varint(session), 1u << 3);
      event.session_status = take_varint(session);
    } else {
      EXPECT_EQ(key, 5u << 3 | 2u);
      std::string_view summary = take_bytes(bytes, take_varint(bytes));
      while (!summary.empty()) {
        EXPECT_EQ(take_varint(summary), 1u << 3 | 2u);
        event.values.push_back(parse_value(take_bytes(summary, take_varint(summary))));
      }
    }
  }
  return event;
}

std::vector<Event> parse_file(const std::string& path) {
  const std::string text = read_text_file(path).value();
  std::vector<Event> events;
  for (std::string_view bytes = text; !bytes.empty();) {
    const std::string_view length_bytes = bytes.substr(0, 8);
    const auto length = take<uint64_t>(bytes);
    EXPECT_EQ(take<uint32_t>(bytes), masked_crc32c(length_bytes));
    const std::string_view data = take_bytes(bytes, length);
    EXPECT_EQ(take<uint32_t>(bytes), masked_crc32c(data));
    events.push_back(parse_event(data));
  }
  return events;
}

class TensorboardWriterTest : public data::DataFiles {};

// The check value of the polynomial, and those of RFC 3720, B.4.
TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string ascending;
  for (int i = 0; i < 32; ++i) ascending += static_cast<char>(i);
  EXPECT_EQ(crc32c(ascending), 0x46dd794eu);
  // 0xe3069283 turned right by 15, plus TFRecord's constant.
  EXPECT_EQ(masked_crc32c("123456789"), 0xc78ab0e5u);
}

TEST_F(TensorboardWriterTest, WhatIsWrittenReadsBack) {
  TensorboardWriter writer = TensorboardWriter::open(path("tb"), 0).value();
  const std::string long_name(300, 'n');
  ASSERT_TRUE(writer.write(1, {{"loss/lm", 2.5}, {long_name, -1e-3}}).ok());
  ASSERT_TRUE(writer.write(int64_t{1} << 40, {{"loss/lm", std::nan("")}}).ok());
  const std::vector<Event> events = parse_file(writer.path());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_GT(events[0].wall_time, 1.6e9);
  EXPECT_EQ(events[1].session_status, 1u);
  EXPECT_EQ(events[1].step, 1u);
  EXPECT_EQ(events[2].step, 1u);
  ASSERT_EQ(events[2].values.size(), 2u);
  EXPECT_EQ(events[2].values[0], (std::pair<std::string, float>("loss/lm", 2.5f)));
  EXPECT_EQ(events[2].values[1], (std::pair<std::string, float>(long_name, -1e-3f)));
  EXPECT_EQ(events[3].step, uint64_t{1} << 40);
  EXPECT_TRUE(std::isnan(events[3].values.at(0).second));
}

TEST_F(TensorboardWriterTest, EveryStartHasAFileBehindTheOthers) {
  const std::string first = TensorboardWriter::open(path("tb"), 0).value().path();
  const std::string second = TensorboardWriter::open(path("tb"), 20).value().path();
  EXPECT_LT(first, second);
  EXPECT_EQ(parse_file(first).size(), 2u);
  const std::vector<Event> events = parse_file(second);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].step, 21u);
}

TEST_F(TensorboardWriterTest, ErrorsNameThePath) {
  const auto writer = TensorboardWriter::open("/dev/null/tb", 0);
  ASSERT_FALSE(writer.has_value());
  EXPECT_EQ(writer.error().code(), StatusCode::io_error);
  EXPECT_NE(writer.error().message().find("/dev/null/tb"), std::string::npos);
}

}  // namespace
}  // namespace cachalot::train
