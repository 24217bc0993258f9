// Every version of the panel kernel against the reference, bit for bit.
#include "ops/matmul/panel.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "ops/matmul/matmul_test_data.h"

namespace cachalot::ops {
namespace {

using device::Isa;

enum class Pack { rows, transposed };

// The product of x [m, k] and a panel packed from random rows, in two calls split at `split`, by
// one version.
std::vector<float> product(const PanelKernels& kernels, bool bf16, Pack how, int64_t m, int64_t k,
                           int64_t n, int64_t width, int64_t split) {
  RngStream rng(5, RngPurpose::data, static_cast<uint64_t>(m * 10007 + k * 101 + n));
  const int64_t stride = 3 + (how == Pack::rows ? n : k);
  const std::vector<float> rows = make_f32_rows(how == Pack::rows ? k : n, stride, rng);
  const std::vector<float> x =
      bf16 ? make_bf16_rows(m + 2, k + 1, rng) : make_f32_rows(m + 2, k + 1, rng);
  std::vector<int32_t> gather(static_cast<size_t>(m));
  for (int64_t i = 0; i < m; ++i) gather[i] = static_cast<int32_t>((i * 7 + 1) % (m + 2));

  const int64_t padded = k + k % 2;
  device::Buffer panel(padded * width * 4);
  auto* as_f32 = reinterpret_cast<float*>(panel.data());
  auto* as_bf16 = reinterpret_cast<uint16_t*>(panel.data());
  if (how == Pack::rows) {
    bf16 ? kernels.pack_rows_bf16(rows.data(), stride, n, k, width, as_bf16)
         : kernels.pack_rows_f32(rows.data(), stride, n, k, width, as_f32);
  } else {
    bf16 ? kernels.pack_rows_transposed_bf16(rows.data(), stride, n, k, width, as_bf16)
         : kernels.pack_rows_transposed_f32(rows.data(), stride, n, k, width, as_f32);
  }
  const int64_t y_stride = width + 5;
  std::vector<float> y(static_cast<size_t>(m * y_stride), -7.0f);
  for (int64_t begin = 0; begin < k; begin = begin == 0 && split > 0 ? split : k) {
    const int64_t count = (begin == 0 && split > 0 ? split : k) - begin;
    device::Buffer prepared(kernels.prepared_x_bytes(m, count));
    (bf16 ? kernels.prepare_x_bf16 : kernels.prepare_x_f32)(x.data() + begin, k + 1, gather.data(),
                                                            m, count, prepared.data());
    if (bf16) {
      kernels.product_bf16(prepared.data(), m, count, as_bf16 + begin * width, width, y.data(),
                           y_stride, begin > 0);
    } else {
      kernels.product_f32(prepared.data(), m, count, as_f32 + begin * width, width, y.data(),
                          y_stride, begin > 0);
    }
  }
  return y;
}

TEST(Panel, EveryVersionHasTheReferencesBits) {
  for (Isa isa : device::machine_isas()) {
    if (isa == Isa::reference) continue;
    for (bool bf16 : {false, true}) {
      for (Pack how : {Pack::rows, Pack::transposed}) {
        for (int64_t width : {16, 32, 48, 64}) {
          for (int64_t m : {1, 2, 5, 6, 7, 13, 64}) {
            for (int64_t k : {1, 2, 7, 64, 129, 512}) {
              const int64_t n = width - (m + k) % 9;
              const auto expected =
                  product(panel_kernels(Isa::reference), bf16, how, m, k, n, width, 0);
              for (int64_t split : {int64_t{0}, k / 2 / 2 * 2}) {
                const auto found = product(panel_kernels(isa), bf16, how, m, k, n, width, split);
                ASSERT_EQ(found.size(), expected.size());
                for (size_t i = 0; i < found.size(); ++i) {
                  ASSERT_TRUE(same_bits(found[i], expected[i]))
                      << device::isa_name(isa)
                      << fmt::format(
                             " bf16={} width={} n={} m={} k={} split={} at {}: expected {:a}, "
                             "found {:a}",
                             bf16, width, n, m, k, split, i, expected[i], found[i]);
                }
              }
            }
          }
        }
      }
    }
  }
}

// A panel of a matrix's rows gives the matrix product's bits.
TEST(Panel, AgreesWithMatmul) {
  ThreadPool pool(2);
  device::Arena arena;
  for (Isa isa : device::machine_isas()) {
    device::ExecContext ctx{&pool, &arena, isa};
    RngStream rng(6, RngPurpose::data, 0);
    const int64_t m = 9, n = 48, k = 200;
    const TestWeight weight = make_weight(WeightFormat::bf16, n, k, rng);
    const PackedWeight w = std::move(PackedWeight::pack(ctx, weight.tensor)).value();
    const std::vector<float> x = make_bf16_rows(m, k, rng);
    std::vector<float> expected(static_cast<size_t>(m * n)), found(expected.size());
    matmul(ctx, {x.data(), m, k, nullptr, &w, expected.data(), n, MatmulMath::bf16, false});
    const PanelKernels& kernels = panel_kernels(isa);
    device::Buffer panel(k * n * 2), prepared(kernels.prepared_x_bytes(m, k));
    auto* packed = reinterpret_cast<uint16_t*>(panel.data());
    const std::vector<float> rows = tensor::to_floats(weight.tensor.weight);
    kernels.pack_rows_transposed_bf16(rows.data(), k, n, k, n, packed);
    kernels.prepare_x_bf16(x.data(), k, nullptr, m, k, prepared.data());
    kernels.product_bf16(prepared.data(), m, k, packed, n, found.data(), n, false);
    EXPECT_EQ(found, expected) << device::isa_name(isa);
  }
}

}  // namespace
}  // namespace cachalot::ops
