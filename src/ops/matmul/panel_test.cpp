// Every version's panels against panel.h's layout, byte for byte.
#include "ops/matmul/panel.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "ops/matmul/matmul_test_data.h"

namespace cachalot::ops {
namespace {

using device::Isa;

enum class Lane { row, column };

// Rows of `stride` floats: normal ones, and what rounding treats apart: ties, a carry into the
// exponent and past the largest, denormals, infinities.
std::vector<float> make_rows(int64_t count, int64_t stride) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float special[] = {1.00390625f, 1.01171875f, -1.00390625f, 1.99999988f, 3.4e38f,
                           -0.0f,       1e-40f,      -3e-42f,      kInfinity,   -kInfinity};
  RngStream rng(5, RngPurpose::data, static_cast<uint64_t>(count * 10007 + stride));
  std::vector<float> rows = make_f32_rows(count, stride, rng);
  for (size_t i = 0; i < rows.size(); i += 3) rows[i] = special[i / 3 % std::size(special)];
  return rows;
}

// The panel of n lanes and k elements by the formula; `value(k, lane)` is the element.
template <typename Value>
std::vector<uint8_t> by_formula(bool bf16, int64_t n, int64_t k, int64_t width, Value value) {
  const int64_t padded = bf16 ? k + k % 2 : k;
  std::vector<uint8_t> panel(static_cast<size_t>(padded * width * (bf16 ? 2 : 4)));
  for (int64_t j = 0; j < padded; ++j) {
    for (int64_t lane = 0; lane < width; ++lane) {
      const float x = j < k && lane < n ? value(j, lane) : 0.0f;
      if (bf16) {
        const uint16_t bits = numeric::bf16_from_float(x);
        std::memcpy(panel.data() + ((j / 2 * width + lane) * 2 + j % 2) * 2, &bits, 2);
      } else {
        std::memcpy(panel.data() + (j * width + lane) * 4, &x, 4);
      }
    }
  }
  return panel;
}

TEST(Panel, EveryVersionPacksByTheFormula) {
  for (const Isa isa : device::machine_isas()) {
    const PanelKernels& kernels = panel_kernels(isa);
    for (const Lane lane : {Lane::row, Lane::column}) {
      for (const int64_t width : {16, 32, 48, 64}) {
        for (const int64_t k : {1, 2, 3, 7, 31, 64, 129, 512}) {
          for (const int64_t n : {width, width - 1, width - 9, width - 15}) {
            const int64_t stride = 3 + (lane == Lane::row ? k : n);
            const std::vector<float> rows = make_rows(lane == Lane::row ? n : k, stride);
            const auto value = [&](int64_t j, int64_t i) {
              return lane == Lane::row ? rows[i * stride + j] : rows[j * stride + i];
            };
            for (const bool bf16 : {false, true}) {
              const std::vector<uint8_t> expected = by_formula(bf16, n, k, width, value);
              // What lay there before shows where nothing is written or too much.
              constexpr size_t kAfter = 64;
              std::vector<uint8_t> found(expected.size() + kAfter, 0xA5);
              if (bf16) {
                (lane == Lane::row ? kernels.pack_rows_transposed_bf16 : kernels.pack_rows_bf16)(
                    rows.data(), stride, n, k, width, reinterpret_cast<uint16_t*>(found.data()));
              } else {
                (lane == Lane::row ? kernels.pack_rows_transposed_f32 : kernels.pack_rows_f32)(
                    rows.data(), stride, n, k, width, reinterpret_cast<float*>(found.data()));
              }
              const std::string where =
                  fmt::format("{} bf16={} lane is a {} width={} n={} k={}", device::isa_name(isa),
                              bf16, lane == Lane::row ? "row" : "column", width, n, k);
              ASSERT_EQ(std::memcmp(found.data(), expected.data(), expected.size()), 0) << where;
              ASSERT_EQ(std::vector<uint8_t>(found.end() - kAfter, found.end()),
                        std::vector<uint8_t>(kAfter, 0xA5))
                  << where;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace cachalot::ops
