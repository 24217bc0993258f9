// 64-bit fingerprints in JSON: 16 hexadecimal digits, as numbers there lose bits in many readers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cachalot::data {

std::string to_hex64(uint64_t value);
std::optional<uint64_t> parse_hex64(std::string_view text);

}  // namespace cachalot::data
