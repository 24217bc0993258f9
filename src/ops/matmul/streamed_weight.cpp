#include "ops/matmul/streamed_weight.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "numeric/formats.h"

namespace cachalot::ops {
namespace {

constexpr uint8_t kNanScale = 255;

// Of 16 rows and 32 inputs as wgmma reads them: lane, register, byte of the register.
int64_t fragment_offset(int64_t row, int64_t k, int64_t register_bytes) {
  const int64_t lane = row % 8 * 4 + k % 16 / 4;
  return lane * 16 + (k / 16 * 2 + row / 8) * register_bytes + k % 4;
}

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
std::vector<std::byte> stream_fp4_rows(const StreamedLayout& layout, const RowOf& row_of) {
  std::vector<std::byte> bytes(static_cast<size_t>(layout.num_bytes()));
  for (int64_t unit = 0; unit < layout.num_units(); ++unit) {
    std::byte* const unit_bytes = bytes.data() + unit * layout.unit_bytes();
    for (int64_t row = 0; row < layout.unit_rows(); ++row) {
      const Fp4Row from = row_of(unit * layout.unit_rows() + row);
      if (from.codes == nullptr) continue;
      for (int64_t block = 0; block < layout.num_blocks(); ++block) {
        const int64_t first = block / layout.blocks_per_stage() * layout.blocks_per_stage();
        const int64_t in_stage =
            std::min<int64_t>(layout.blocks_per_stage(), layout.num_blocks() - first);
        std::byte* const stage = unit_bytes + layout.stage_bytes(first);
        const int64_t fragment = (block - first) * 4 + row / kStreamedRows;
        std::byte* const codes = stage + fragment * 1024;
        std::byte* const scales = stage + in_stage * 4 * 1024 + fragment * 64;
        for (int64_t k = 0; k < kStreamedBlock; ++k) {
          const int64_t input = block * kStreamedBlock + k;
          const int nibble = from.codes[input / 2] >> (input % 2 * 4) & 15;
          const int64_t step = k / 32;
          const int64_t k32 = k % 32;
          const int64_t lane = row % 8 * 4 + k32 % 16 / 4;
          std::byte& to =
              codes[step / 2 * 512 + lane * 16 + (step % 2 * 2 + row / 8 % 2) * 4 + k32 % 4];
          to |= static_cast<std::byte>(k32 < 16 ? nibble << 4 : nibble);
        }
        for (int64_t step = 0; step < 4; ++step) {
          scales[row % 8 * 8 + step * 2 + row / 8 % 2] =
              static_cast<std::byte>(from.scales[block * 4 + step]);
        }
      }
    }
  }
  return bytes;
}

}  // namespace

int64_t StreamedLayout::unit_bytes() const {
  const int64_t full = num_blocks() / blocks_per_stage();
  const int64_t rest = num_blocks() % blocks_per_stage();
  return full * stage_bytes(blocks_per_stage()) + (rest != 0 ? stage_bytes(rest) : 0);
}

Result<std::vector<std::byte>> stream_fp8(const uint8_t* codes, const uint8_t* scales, int64_t rows,
                                          int64_t columns) {
  CACHALOT_CHECK(rows > 0 && columns > 0 && columns % kStreamedBlock == 0);
  CACHALOT_RETURN_IF_ERROR(check_scales(scales, (rows + 127) / 128 * (columns / kStreamedBlock)));
  const StreamedLayout layout{StreamedFormat::fp8, rows, columns};
  std::vector<std::byte> bytes(static_cast<size_t>(layout.num_bytes()));
  for (int64_t row = 0; row < rows; ++row) {
    std::byte* const unit = bytes.data() + row / kStreamedRows * layout.unit_bytes();
    for (int64_t block = 0; block < layout.num_blocks(); ++block) {
      const int64_t first = block / layout.blocks_per_stage() * layout.blocks_per_stage();
      const int64_t in_stage =
          std::min<int64_t>(layout.blocks_per_stage(), layout.num_blocks() - first);
      std::byte* const stage =
          unit + first / layout.blocks_per_stage() * layout.stage_bytes(layout.blocks_per_stage());
      for (int64_t k = 0; k < kStreamedBlock; ++k) {
        stage[(block - first) * 2048 + k / 32 * 512 +
              fragment_offset(row % kStreamedRows, k % 32, 4)] =
            static_cast<std::byte>(codes[row * columns + block * kStreamedBlock + k]);
      }
      const float scale = numeric::float_from_e8m0(scales[row / 128 * layout.num_blocks() + block]);
      std::memcpy(stage + in_stage * 2048 + (block - first) * 4, &scale, sizeof(scale));
    }
  }
  return bytes;
}

Result<std::vector<std::byte>> stream_fp4(const uint8_t* codes, const uint8_t* scales, int64_t rows,
                                          int64_t columns) {
  CACHALOT_CHECK(rows > 0 && columns > 0 && columns % kStreamedBlock == 0);
  CACHALOT_RETURN_IF_ERROR(check_scales(scales, rows * (columns / 32)));
  return stream_fp4_rows({StreamedFormat::fp4, rows, columns}, [=](int64_t row) -> Fp4Row {
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
  return stream_fp4_rows({StreamedFormat::fp4, 2 * rows, columns}, [=](int64_t row) -> Fp4Row {
    const int64_t at = row / 16 * 8 + row % 8;
    const bool gate = row % 16 < 8;
    if (at >= rows) return {nullptr, nullptr};
    return {(gate ? gate_codes : up_codes) + at * (columns / 2),
            (gate ? gate_scales : up_scales) + at * (columns / 32)};
  });
}

}  // namespace cachalot::ops
