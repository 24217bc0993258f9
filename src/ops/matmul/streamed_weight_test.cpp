// The streamed order of weights against tile/mma.cuh's figure of the fragments, written out anew.
#include "ops/matmul/streamed_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "base/thread_pool.h"
#include "numeric/formats.h"
#include "ops/matmul/matmul_test_data.h"
#include "ops/matmul/stream_panels.h"

namespace cachalot::ops {
namespace {

std::vector<uint8_t> random_bytes(std::mt19937& rng, int64_t count, int bound) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng() % static_cast<uint32_t>(bound));
  return bytes;
}

TEST(StreamedFp8, EveryLaneFindsItsFragment) {
  std::mt19937 rng(1);
  constexpr int64_t kRows = 40, kColumns = 1152;  // a last unit of 8 rows, a last stage of 1 block
  const auto codes = random_bytes(rng, kRows * kColumns, 256);
  const auto scales = random_bytes(rng, kColumns / 128, 255);
  const auto bytes = stream_fp8(codes.data(), scales.data(), kRows, kColumns);
  ASSERT_TRUE(bytes.has_value());
  const int64_t unit_bytes = 8 * 2048 + 32 + 2048 + 16;
  ASSERT_EQ(static_cast<int64_t>((*bytes).size()), 3 * unit_bytes);
  for (int64_t unit = 0; unit < 3; ++unit) {
    for (int64_t block = 0; block < 9; ++block) {
      const std::byte* stage =
          (*bytes).data() + unit * unit_bytes + (block == 8 ? 8 * 2048 + 32 : 0);
      const int64_t in_stage = block == 8 ? 1 : 8, at = block % 8;
      for (int64_t step = 0; step < 4; ++step) {
        for (int64_t lane = 0; lane < 32; ++lane) {
          for (int64_t j = 0; j < 4; ++j) {
            for (int64_t i = 0; i < 4; ++i) {
              const int64_t row = unit * 16 + lane / 4 + 8 * (j % 2);
              const int64_t k = block * 128 + step * 32 + 16 * (j / 2) + 4 * (lane % 4) + i;
              const auto found =
                  static_cast<int>(stage[at * 2048 + step * 512 + lane * 16 + j * 4 + i]);
              ASSERT_EQ(found, row < kRows ? codes[row * kColumns + k] : 0)
                  << "row " << row << " k " << k;
            }
          }
        }
      }
      float scale;
      std::memcpy(&scale, stage + in_stage * 2048 + at * 4, 4);
      EXPECT_EQ(scale, numeric::float_from_e8m0(scales[block]));
    }
  }
}

TEST(StreamedFp4, EveryLaneFindsItsFragmentOfGateAndUp) {
  std::mt19937 rng(2);
  // Of each; a unit and one of 16 rows; a last stage of two blocks.
  constexpr int64_t kRows = 40, kColumns = 768;
  const std::vector<uint8_t> codes[2] = {random_bytes(rng, kRows * kColumns / 2, 256),
                                         random_bytes(rng, kRows * kColumns / 2, 256)};
  const std::vector<uint8_t> scales[2] = {random_bytes(rng, kRows * kColumns / 32, 12),
                                          random_bytes(rng, kRows * kColumns / 32, 12)};
  const auto bytes = stream_fp4_gate_up(codes[0].data(), scales[0].data(), codes[1].data(),
                                        scales[1].data(), kRows, kColumns);
  ASSERT_TRUE(bytes.has_value());
  const int64_t unit_bytes = 6 * 4 * 1088;
  ASSERT_EQ(static_cast<int64_t>((*bytes).size()), 2 * unit_bytes + 2 * 64);
  const auto largest = [&](int64_t half, int64_t row) {
    const uint8_t* const own = scales[half].data() + row * (kColumns / 32);
    return row < kRows ? *std::max_element(own, own + kColumns / 32) : 0;
  };
  for (int64_t i = 0; i < 2 * 64; ++i) {
    EXPECT_EQ(static_cast<int>((*bytes)[2 * unit_bytes + i]),
              largest(i % 16 / 8, i / 16 * 8 + i % 8));
  }
  for (int64_t unit = 0; unit < 2; ++unit) {
    for (int64_t block = 0; block < 6; ++block) {
      const std::byte* stage =
          (*bytes).data() + unit * unit_bytes + (block >= 4 ? 4 * 4 * 1088 : 0);
      const int64_t in_stage = block >= 4 ? 2 : 4;
      for (int64_t group = 0; group < 4; ++group) {  // of 16 rows
        const int64_t at = block % 4 * 4 + group;
        for (int64_t step = 0; step < 4; ++step) {
          for (int64_t lane = 0; lane < 32; ++lane) {
            for (int64_t half = 0; half < 2; ++half) {  // gate, up
              const int64_t row = unit * 32 + group * 8 + lane / 4;
              uint32_t word;
              std::memcpy(
                  &word, stage + at * 1024 + step / 2 * 512 + lane * 16 + (step % 2 * 2 + half) * 4,
                  4);
              for (int64_t i = 0; i < 8; ++i) {
                const int64_t k = block * 128 + lane % 4 * 32 + step * 8 + i;
                // Where the activations have it, which the lane's product of this step takes.
                ASSERT_EQ(StreamedFp4::place(static_cast<int>(k % 128 - k % 4)) + k % 4,
                          step * 32 + i / 4 * 16 + lane % 4 * 4 + i % 4);
                const int expected =
                    row < kRows ? codes[half][(row * kColumns + k) / 2] >> (k % 2 * 4) & 15 : 0;
                EXPECT_EQ(word >> (4 * i) & 7, static_cast<uint32_t>(expected & 7));
                ASSERT_EQ(word >> (i % 4 * 8 + (i < 4 ? 7 : 3)) & 1,
                          static_cast<uint32_t>(expected >> 3))
                    << "row " << row << " k " << k;
              }
              const int below = static_cast<int>(
                  stage[in_stage * 4 * 1024 + at * 64 + lane / 4 * 8 + half * 4 + step]);
              EXPECT_EQ(below, row < kRows
                                   ? largest(half, row) -
                                         scales[half][row * (kColumns / 32) + block * 4 + step]
                                   : 0);
            }
          }
        }
      }
    }
  }
}

// A model's panels become what the official arrays become.
std::vector<std::byte> moved(const TestWeight& weight, const StreamedLayout& layout,
                             std::vector<std::byte> to, int half, int32_t* misfits = nullptr) {
  ThreadPool pool(1);
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, device::Isa::reference};
  const PackedWeight packed = PackedWeight::pack(ctx, weight.tensor).value();
  to.resize(static_cast<size_t>(layout.format == StreamedFormat::fp4
                                    ? StreamedFp4{layout.rows, layout.columns}.num_bytes()
                                    : layout.num_bytes()));
  const std::byte* panels = packed.bytes().data();
  const auto* scales = reinterpret_cast<const std::byte*>(packed.panel_scales(0));
  const StreamPanels p{layout,    packed.rows(), panels, scales == nullptr ? 0 : scales - panels,
                       to.data(), half,          misfits};
  for (int64_t i = 0; i < p.num_items(); ++i) p.move(i);
  return to;
}

const uint8_t* codes_of(const TestWeight& w) {
  return reinterpret_cast<const uint8_t*>(w.tensor.weight.data);
}
const uint8_t* scales_of(const TestWeight& w) {
  return reinterpret_cast<const uint8_t*>(w.tensor.scale.data);
}

TEST(StreamPanels, Fp8) {
  RngStream rng(3, RngPurpose::data, 0);
  for (const int64_t rows : {16, 40, 64, 200, 328}) {
    for (const int64_t columns : {128, 1152}) {
      const TestWeight w = make_weight(WeightFormat::fp8, rows, columns, rng);
      EXPECT_EQ(moved(w, {StreamedFormat::fp8, rows, columns}, {}, -1),
                stream_fp8(codes_of(w), scales_of(w), rows, columns).value())
          << rows << " x " << columns;
    }
  }
}

TEST(StreamPanels, Fp4AndGateWithUp) {
  RngStream rng(4, RngPurpose::data, 0);
  for (const int64_t rows : {16, 40, 64, 200}) {
    for (const int64_t columns : {128, 768}) {
      const TestWeight w = make_weight(WeightFormat::fp4, rows, columns, rng),
                       up = make_weight(WeightFormat::fp4, rows, columns, rng);
      EXPECT_EQ(moved(w, {StreamedFormat::fp4, rows, columns}, {}, -1),
                stream_fp4(codes_of(w), scales_of(w), rows, columns).value());
      const StreamedLayout both{StreamedFormat::fp4, 2 * rows, columns};
      EXPECT_EQ(
          moved(up, both, moved(w, both, {}, 0), 1),
          stream_fp4_gate_up(codes_of(w), scales_of(w), codes_of(up), scales_of(up), rows, columns)
              .value());
    }
  }
}

TEST(StreamPanels, Bf16EveryLaneFindsItsFragment) {
  RngStream rng(5, RngPurpose::data, 0);
  for (const int64_t rows : {16, 40, 64, 200}) {
    for (const int64_t columns : {16, 208}) {
      const TestWeight w = make_weight(WeightFormat::bf16, rows, columns, rng);
      const StreamedLayout layout{StreamedFormat::bf16, rows, columns};
      const std::vector<std::byte> bytes = moved(w, layout, {}, -1);
      ASSERT_EQ(static_cast<int64_t>(bytes.size()), (rows + 15) / 16 * columns * 32);
      for (int64_t i = 0; i < static_cast<int64_t>(bytes.size()) / 2; ++i) {
        const int64_t lane = i / 8 % 32, j = i / 2 % 4;
        const int64_t row = i / (columns * 16) * 16 + lane / 4 + 8 * (j % 2);
        // A lane has four inputs that follow each other, of which B has the same two a register.
        const int64_t k = i / 256 % (columns / 16) * 16 + lane % 4 * 4 + j / 2 * 2 + i % 2;
        uint16_t found, expected = 0;
        std::memcpy(&found, bytes.data() + 2 * i, 2);
        if (row < rows) std::memcpy(&expected, w.tensor.weight.data + (row * columns + k) * 2, 2);
        ASSERT_EQ(found, expected) << "row " << row << " k " << k;
      }
    }
  }
}

// Of rows whose scales lie far apart, those of zeros do not count.
TEST(StreamedFp4, ScalesOfARowLieTwelveBinadesApartAtMost) {
  RngStream rng(6, RngPurpose::data, 0);
  const TestWeight w = make_weight(WeightFormat::fp4, 64, 256, rng);
  auto* const codes = const_cast<uint8_t*>(codes_of(w));
  auto* const scales = const_cast<uint8_t*>(scales_of(w));
  const StreamedFp4 layout{64, 256};
  std::fill(scales, scales + 64 * 8, 100);
  const auto expect = [&](int own, int32_t misfits, int below, int largest) {
    scales[40 * 8 + 5] = static_cast<uint8_t>(own);
    int32_t found = 0;
    const std::vector<std::byte> bytes = moved(w, {StreamedFormat::fp4, 64, 256}, {}, -1, &found);
    EXPECT_EQ(found, misfits) << own;
    const auto streamed = stream_fp4(codes, scales, 64, 256);
    ASSERT_EQ(streamed.has_value(), misfits == 0) << own;
    if (!streamed) {
      EXPECT_EQ(streamed.error().message(),
                "weight row 40: expected scales at most 2^11 apart, found others");
      return;
    }
    EXPECT_EQ(*streamed, bytes);
    EXPECT_EQ(static_cast<int>(bytes[layout.below(40, 160)]), below) << own;
    EXPECT_EQ(static_cast<int>(bytes[layout.row_scale(40)]), largest) << own;
  };
  expect(89, 0, 11, 100);
  expect(88, 1, 0, 0);
  expect(111, 0, 0, 111);
  expect(112, 1, 0, 0);
  uint8_t* const group = codes + (40 * 256 + 160) / 2;
  std::fill(group, group + 16, 0x80);  // 0 and -0
  expect(88, 0, 11, 100);
  expect(112, 0, 0, 100);
}

TEST(StreamedWeight, ANanScaleIsRefused) {
  const std::vector<uint8_t> codes(16 * 128), scales(16 * 4, 255);
  EXPECT_EQ(stream_fp8(codes.data(), scales.data(), 16, 128).error().code(),
            StatusCode::invalid_argument);
  EXPECT_EQ(stream_fp4(codes.data(), scales.data(), 16, 128).error().message(),
            "weight scale 0: expected an e8m0 byte of a number, found 255 (NaN)");
}

}  // namespace
}  // namespace cachalot::ops
