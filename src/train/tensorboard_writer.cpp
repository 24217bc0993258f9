#include "train/tensorboard_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <filesystem>

namespace cachalot::train {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "events.out.tfevents.";

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}

template <typename T>
void append_little_endian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 0xff);
}

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7f) | 0x80);
  out += static_cast<char>(value);
}

// Protobuf's wire types.
constexpr uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

void append_key(std::string& out, uint32_t field, uint32_t wire_type) {
  append_varint(out, field << 3 | wire_type);
}

void append_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  append_key(out, field, kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

std::string event_head(int64_t step) {
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::string out;
  append_key(out, 1, kFixed64);
  append_little_endian(out, std::bit_cast<uint64_t>(now));
  append_key(out, 2, kVarint);
  append_varint(out, static_cast<uint64_t>(step));
  return out;
}

// One more than the greatest number of a file here: readers take files in the order of their names.
int next_number(const std::string& directory) {
  int next = 1;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    int number = 0;
    if (name.starts_with(kPrefix) &&
        std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), number).ec ==
            std::errc())
      next = std::max(next, number + 1);
  }
  return next;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = 0xffffffff;
  for (const char byte : bytes)
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(byte)) & 0xff];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xa282ead8u;
}

Result<TensorboardWriter> TensorboardWriter::open(const std::string& directory, int64_t last_step) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return io_error(fmt::format("{}: create: {}", directory, error.message()));
  const std::string path =
      fmt::format("{}/{}{:06}.step{}", directory, kPrefix, next_number(directory), last_step);
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644));
  if (fd.get() < 0) return io_error(fmt::format("{}: create: {}", path, std::strerror(errno)));
  TensorboardWriter writer(path, std::move(fd));
  std::string version = event_head(0);
  append_bytes(version, 3, "brain.Event:2");
  CACHALOT_RETURN_IF_ERROR(writer.append(version));
  std::string start = event_head(last_step + 1);
  append_bytes(start, 7, std::string_view("\x08\x01", 2));  // status: START
  CACHALOT_RETURN_IF_ERROR(writer.append(start));
  return writer;
}

Status TensorboardWriter::write(int64_t step, const MetricValues& values) {
  std::string summary;
  for (const auto& [name, number] : values) {
    std::string value;
    append_bytes(value, 1, name);
    append_key(value, 2, kFixed32);
    append_little_endian(value, std::bit_cast<uint32_t>(static_cast<float>(number)));
    append_bytes(summary, 1, value);
  }
  std::string event = event_head(step);
  append_bytes(event, 5, summary);
  return append(event);
}

Status TensorboardWriter::append(std::string_view event) {
  std::string record;
  append_little_endian(record, static_cast<uint64_t>(event.size()));
  append_little_endian(record, masked_crc32c(record));
  record += event;
  append_little_endian(record, masked_crc32c(event));
  for (size_t done = 0; done < record.size();) {
    const ssize_t count = ::write(fd_.get(), record.data() + done, record.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error(fmt::format("{}: write: {}", path_, std::strerror(errno)));
    done += static_cast<size_t>(count);
  }
  return {};
}

}  // namespace cachalot::train
