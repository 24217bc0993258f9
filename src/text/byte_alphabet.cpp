#include "text/byte_alphabet.h"

namespace cachalot::text {

ByteAlphabet::ByteAlphabet() {
  bytes_.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const auto code_point = static_cast<uint16_t>(printable ? byte : next++);
    bytes_[code_point] = static_cast<int16_t>(byte);
    code_points_[static_cast<size_t>(byte)] = code_point;
  }
}

std::optional<std::string> ByteAlphabet::decode(std::string_view symbols) const {
  std::string bytes;
  for (size_t i = 0; i < symbols.size(); ++i) {
    size_t code_point = static_cast<unsigned char>(symbols[i]);
    if (code_point >= 0xC0 && i + 1 < symbols.size()) {
      code_point = (code_point & 0x3F) << 6 | (static_cast<unsigned char>(symbols[++i]) & 0x3F);
    }
    if (code_point >= bytes_.size() || bytes_[code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(bytes_[code_point]);
  }
  return bytes;
}

std::string ByteAlphabet::encode(std::string_view bytes) const {
  std::string symbols;
  for (const char c : bytes) {
    const uint16_t code_point = code_points_[static_cast<uint8_t>(c)];
    if (code_point < 0x80) {
      symbols += static_cast<char>(code_point);
    } else {
      symbols += static_cast<char>(0xC0 | code_point >> 6);
      symbols += static_cast<char>(0x80 | (code_point & 0x3F));
    }
  }
  return symbols;
}

std::vector<uint8_t> ByteAlphabet::in_order() const {
  std::vector<uint8_t> order;
  for (const int16_t byte : bytes_) {
    if (byte >= 0) order.push_back(static_cast<uint8_t>(byte));
  }
  return order;
}

}  // namespace cachalot::text
