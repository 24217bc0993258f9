#include "ops/matmul/streamed_weight.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "numeric/formats.h"
#include "ops/matmul/streamed_fp4.h"

namespace cachalot::ops {
namespace {

constexpr uint8_t kNanScale = 255;

Status check_scales(const uint8_t* scales, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (scales[i] == kNanScale) {
      return invalid_argument("weight scale " + std::to_string(i) +
                              ": expected an e8m0 byte of a number, found 255 (NaN)");
    }
  }
  return {};
}

// What differs between plain fp4 and gate with up: where a row lies.
struct Fp4Row {
  const uint8_t* codes;  // null: a row of zeros
  const uint8_t* scales;
};

template <typename RowOf>
Result<std::vector<std::byte>> stream_fp4_rows(const StreamedFp4& layout, const RowOf& row_of) {
  std::vector<std::byte> bytes(static_cast<size_t>(layout.num_bytes()));
  for (int64_t row = 0; row < layout.padded_rows(); ++row) {
    const Fp4Row from = row_of(row);
    if (from.codes == nullptr) continue;
    const auto code = [&](int64_t k) { return from.codes[k / 2] >> (k % 2 * 4) & 15; };
    const StreamedFp4::RowScales scales(
        layout.columns / 32, [&](int64_t g) { return from.scales[g]; },
        [&](int64_t g) {
          const uint8_t* const first = from.codes + g * 16;
          return std::all_of(first, first + 16, [](uint8_t two) { return (two & 0x77) == 0; });
        });
    if (!scales.fits) {
      return invalid_argument("weight row " + std::to_string(row) + ": expected scales at most 2^" +
                              std::to_string(StreamedFp4::kMaxBelow) + " apart, found others");
    }
    for (int64_t k = 0; k < layout.columns; k += 32) {
      for (int64_t at = k; at < k + 32; at += 8) {
        const uint32_t word = StreamedFp4::word([&](int i) { return code(at + i); });
        std::memcpy(bytes.data() + layout.codes(row, at), &word, sizeof(word));
      }
      bytes[layout.below(row, k)] = static_cast<std::byte>(scales.below(from.scales[k / 32]));
    }
    bytes[layout.row_scale(row)] = static_cast<std::byte>(scales.largest);
  }
  return bytes;
}

}  // namespace

Result<std::vector<std::byte>> stream_fp8(const uint8_t* codes, const uint8_t* scales, int64_t rows,
                                          int64_t columns) {
  CACHALOT_CHECK(rows > 0 && columns > 0 && columns % kStreamedBlock == 0);
  CACHALOT_RETURN_IF_ERROR(check_scales(scales, (rows + 127) / 128 * (columns / kStreamedBlock)));
  const StreamedLayout layout{StreamedFormat::fp8, rows, columns};
  std::vector<std::byte> bytes(static_cast<size_t>(layout.num_bytes()));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < columns; ++k)
      bytes[layout.fp8_code(row, k)] = static_cast<std::byte>(codes[row * columns + k]);
    for (int64_t block = 0; block < layout.num_blocks(); ++block) {
      const float scale = numeric::float_from_e8m0(scales[row / 128 * layout.num_blocks() + block]);
      std::memcpy(bytes.data() + layout.fp8_scale(row, block), &scale, sizeof(scale));
    }
  }
  return bytes;
}

Result<std::vector<std::byte>> stream_fp4(const uint8_t* codes, const uint8_t* scales, int64_t rows,
                                          int64_t columns) {
  CACHALOT_CHECK(rows > 0 && columns > 0 && columns % kStreamedBlock == 0);
  CACHALOT_RETURN_IF_ERROR(check_scales(scales, rows * (columns / 32)));
  return stream_fp4_rows({rows, columns}, [=](int64_t row) -> Fp4Row {
    if (row >= rows) return {nullptr, nullptr};
    return {codes + row * (columns / 2), scales + row * (columns / 32)};
  });
}

Result<std::vector<std::byte>> stream_fp4_gate_up(const uint8_t* gate_codes,
                                                  const uint8_t* gate_scales,
                                                  const uint8_t* up_codes, const uint8_t* up_scales,
                                                  int64_t rows, int64_t columns) {
  CACHALOT_CHECK(rows > 0 && rows % 8 == 0 && columns > 0 && columns % kStreamedBlock == 0);
  CACHALOT_RETURN_IF_ERROR(check_scales(gate_scales, rows * (columns / 32)));
  CACHALOT_RETURN_IF_ERROR(check_scales(up_scales, rows * (columns / 32)));
  return stream_fp4_rows({2 * rows, columns}, [=](int64_t row) -> Fp4Row {
    const int64_t at = row / 16 * 8 + row % 8;
    const bool gate = row % 16 < 8;
    if (at >= rows) return {nullptr, nullptr};
    return {(gate ? gate_codes : up_codes) + at * (columns / 2),
            (gate ? gate_scales : up_scales) + at * (columns / 32)};
  });
}

}  // namespace cachalot::ops
