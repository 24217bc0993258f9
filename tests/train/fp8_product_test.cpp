// The products of FP8 training: against double precision, against native FP4, and their gradients
// against plain loops.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "autograd/matmul_grad.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "device/isa.h"
#include "numeric/formats.h"
#include "ops/quant/act_quant.h"
#include "train/prepared_weight.h"

namespace cachalot::train {
namespace {

using Floats = std::vector<float>;

Floats normals(int64_t n, double size, uint64_t seed) {
  RngStream rng(seed, RngPurpose::weights, 0);
  Floats out(static_cast<size_t>(n));
  for (float& x : out) x = static_cast<float>(size * rng.next_normal());
  return out;
}

struct Machine {
  explicit Machine(device::Isa isa = device::machine_isa(), int threads = 2)
      : pool(threads), ctx{&pool, &arena, isa} {}
  ThreadPool pool;
  device::Arena arena;
  device::ExecContext ctx;
};

struct Prepared {
  ops::PackedWeight weight, transposed;
  formats::RecastCounts recast;
};
Prepared prepare(Machine& machine, PreparedFormat format, const Floats& master, int64_t rows,
                 int64_t columns) {
  Prepared out;
  EXPECT_TRUE(prepare_weight(machine.ctx, format, {master.data(), rows, columns, columns},
                             out.weight, out.transposed, &out.recast)
                  .ok());
  return out;
}

// The matrix as floats, from the codes.
Floats values(const ops::PackedWeight& w) {
  Floats out;
  for (int64_t r = 0; r < w.rows(); ++r) {
    for (int64_t c = 0; c < w.columns(); ++c)
      out.push_back(w.code_value(r, c) * w.scale(r, c / 128));
  }
  return out;
}

ops::MatmulParams product(const Floats& x, int64_t m, const ops::PackedWeight& w, Floats& y) {
  y.assign(static_cast<size_t>(m * w.rows()), 0.0f);
  ops::MatmulParams p{};
  p.x = x.data();
  p.m = m;
  p.x_stride = w.columns();
  p.w = &w;
  p.y = y.data();
  p.y_stride = w.rows();
  p.math = ops::MatmulMath::bf16;
  return p;
}

Floats round_to_bf16(Floats x) {
  for (float& v : x) v = numeric::round_to_bf16(v);
  return x;
}
Floats act8(Machine& machine, Floats x, int64_t rows, int64_t columns) {
  ops::simulate_fp8(machine.ctx, {x.data(), rows, columns, columns}, 128);
  return x;
}

// Per product |x||w|: 2^-4 of either factor (half a step of three mantissa bits), and in the
// subnormals half a step of 2^-9 scales, at most 2^-10 * 2 / 448 of the tile's largest value; fp32
// sums of K terms add (K + 2) 2^-24.
TEST(Fp8Product, StaysWithinTheErrorOfThreeMantissaBits) {
  Machine machine;
  double first_relative = 0;
  for (const int64_t k : {128, 512, 2048, 8192}) {
    const int64_t m = 6, n = 16;
    const Floats x = round_to_bf16(normals(m * k, 1, 1)), w = normals(n * k, 0.02, 2);
    const Prepared prepared = prepare(machine, PreparedFormat::fp8, w, n, k);
    const Floats xq = act8(machine, x, m, k);
    Floats y;
    ops::matmul(machine.ctx, product(xq, m, prepared.weight, y));
    double error2 = 0, size2 = 0;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double exact = 0, bound = 0;
        for (int64_t b = 0; b < k; b += 128) {
          float x_max = 0, w_max = 0;
          for (int64_t c = b; c < b + 128; ++c) {
            x_max = std::max(x_max, std::abs(x[i * k + c]));
            for (int64_t r = 0; r < n; ++r) w_max = std::max(w_max, std::abs(w[r * k + c]));
          }
          for (int64_t c = b; c < b + 128; ++c) {
            const double a = x[i * k + c], v = w[j * k + c];
            const double da = std::max(std::abs(a) / 16, x_max * 2 / 448 * 0x1p-10),
                         dv = std::max(std::abs(v) / 16, w_max * 2 / 448 * 0x1p-10);
            exact += a * v;
            bound += std::abs(a) * dv + std::abs(v) * da + da * dv +
                     static_cast<double>(k + 2) * 0x1p-24 * 1.2 * std::abs(a * v);
          }
        }
        const double error = std::abs(y[i * n + j] - exact);
        EXPECT_LE(error, bound) << k;
        error2 += error * error;
        size2 += exact * exact;
      }
    }
    // Errors of the terms are independent and so are the terms: their ratio does not depend on K.
    const double relative = std::sqrt(error2 / size2);
    RecordProperty("relative_error_k" + std::to_string(k), std::to_string(relative));
    if (k == 128) first_relative = relative;
    EXPECT_LT(relative, 1.5 * first_relative) << k;
    EXPECT_LT(relative, 0.08) << k;
  }
}

TEST(Fp8Product, OfFp4ValuesHasTheBitsOfTheNativeFp4Product) {
  const int64_t n = 200, k = 352;
  // Groups of many sizes: codes of few bits at one scale sum without rounding, whatever the order.
  Floats master = normals(n * k, 0.02, 3);
  for (size_t i = 0; i < master.size(); ++i)
    master[i] = std::ldexp(master[i], -static_cast<int>(i / 32 % 9));
  std::vector<uint8_t> codes(n * k / 2), scales(n * k / 32);
  formats::QuantizeCounts counts;
  ASSERT_TRUE(formats::quantize_fp4_groups(master, n, k, {}, codes, scales, &counts).ok());
  tensor::QuantTensor fp4;
  fp4.weight = {tensor::DType::i8, {n, k / 2}, reinterpret_cast<const std::byte*>(codes.data())};
  fp4.scale = {
      tensor::DType::f8_e8m0, {n, k / 32}, reinterpret_cast<const std::byte*>(scales.data())};
  fp4.rows = n;
  fp4.columns = k;
  fp4.block_rows = 1;
  fp4.block_columns = 32;
  for (const device::Isa isa : device::machine_isas()) {
    Machine machine(isa);
    const ops::PackedWeight native = ops::PackedWeight::pack(machine.ctx, fp4).value();
    Prepared simulated = prepare(machine, PreparedFormat::fp8_of_fp4, master, n, k);
    EXPECT_EQ(simulated.recast.blocks, 6);
    EXPECT_EQ(simulated.recast.inexact_blocks, 0);
    EXPECT_EQ(simulated.weight.format(), ops::WeightFormat::fp8);
    for (const int64_t m : {1, 5, 40}) {
      for (const ops::MatmulMath math : {ops::MatmulMath::f32, ops::MatmulMath::bf16}) {
        const Floats x = act8(machine, round_to_bf16(normals(m * k, 1, 4)), m, k);
        Floats expected, found, per_128;
        ops::MatmulParams p = product(x, m, native, expected);
        p.math = math;
        ops::matmul(machine.ctx, p);
        p = product(x, m, simulated.weight, found);
        p.math = math;
        ops::matmul(machine.ctx, p);
        EXPECT_EQ(found, expected) << device::isa_name(isa) << " " << m;
        simulated.weight.set_sum_group(128);
        p = product(x, m, simulated.weight, per_128);
        p.math = math;
        ops::matmul(machine.ctx, p);
        simulated.weight.set_sum_group(32);
        EXPECT_TRUE(m < 40 || per_128 != expected) << "the sums' order decides no bit";
      }
    }
  }
}

// What the product's gradients are by the definition, in the order of the kernels' sums.
struct Gradients {
  Floats dx, dw;
};
Gradients gradients(Machine& machine, autograd::GradientFormat format, const Prepared& prepared,
                    const Floats& x, int64_t m, const Floats& dy, const Floats& dw_before) {
  Floats y;
  ops::MatmulParams p = product(x, m, prepared.weight, y);
  p.math = prepared.weight.format() == ops::WeightFormat::f32 ? ops::MatmulMath::f32
                                                              : ops::MatmulMath::bf16;
  Gradients out{Floats(x.size()), dw_before};
  device::PagedArena activations;
  autograd::Tape tape(activations, machine.ctx);
  Floats d_y = dy;
  tape.add_parameter(x.data(), static_cast<int64_t>(x.size()), out.dx.data());
  tape.add_parameter(y.data(), static_cast<int64_t>(y.size()), d_y.data());
  tape.add_matrix(&prepared.weight, {out.dw.data(), p.w->columns(), &prepared.transposed});
  autograd::matmul({machine.ctx, &tape}, {&p, 1}, format);
  tape.backward();
  return out;
}

Floats tiles(Machine& machine, Floats x, int64_t rows, int64_t columns, bool down, float floor) {
  const ops::RowsParams p{x.data(), rows, columns, columns};
  down ? ops::simulate_fp8_columns(machine.ctx, p, 128, floor)
       : ops::simulate_fp8(machine.ctx, p, 128, floor);
  return x;
}

void check_gradients(autograd::GradientFormat format, PreparedFormat prepared_as) {
  const int64_t m = 300, n = 160, k = 192;
  const Floats master = normals(n * k, 0.02, 5), before = normals(n * k, 1e-3, 6);
  for (const device::Isa isa : device::machine_isas()) {
    Machine machine(isa);
    const Prepared prepared = prepare(machine, prepared_as, master, n, k);
    const bool is_fp8 = format == autograd::GradientFormat::fp8;
    Floats x = round_to_bf16(normals(m * k, 1, 7));
    if (is_fp8) x = act8(machine, x, m, k);
    const Floats dy = normals(m * n, 1e-7, 8);
    const Gradients found = gradients(machine, format, prepared, x, m, dy, before);

    const Floats dy_rows =
        is_fp8 ? tiles(machine, dy, m, n, false, ops::kFp8GradientFloor) : round_to_bf16(dy);
    const Floats dy_columns =
        is_fp8 ? tiles(machine, dy, m, n, true, ops::kFp8GradientFloor) : round_to_bf16(dy);
    const Floats x_columns = is_fp8 ? tiles(machine, x, m, k, true, ops::kFp8AmaxFloor) : x;
    // The master's gradient: one chain over rows for every element, none masked, from what was
    // there.
    Floats dw = before;
    for (int64_t t = 0; t < m; ++t) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < k; ++j)
          dw[i * k + j] = std::fma(dy_columns[t * n + i], x_columns[t * k + j], dw[i * k + j]);
      }
    }
    EXPECT_EQ(found.dw, dw) << device::isa_name(isa);
    // dX multiplies by what the forward pass multiplied by; against double, within fp32 sums of n
    // terms.
    Floats w = values(prepared.weight);
    for (int64_t t = 0; t < m; t += 37) {
      for (int64_t j = 0; j < k; ++j) {
        double sum = 0, size = 0;
        for (int64_t i = 0; i < n; ++i) {
          const double term = static_cast<double>(dy_rows[t * n + i]) * w[i * k + j];
          sum += term;
          size += std::abs(term);
        }
        EXPECT_NEAR(found.dx[t * k + j], sum, 0x1p-24 * (n + 4) * size);
      }
    }
  }
}

TEST(ProductGradient, AtFp8IsThatOfTheQuantisedWeightUnmasked) {
  check_gradients(autograd::GradientFormat::fp8, PreparedFormat::fp8);
  check_gradients(autograd::GradientFormat::fp8, PreparedFormat::fp8_of_fp4);
}

TEST(ProductGradient, AtBf16IsThatOfTheRoundedWeight) {
  check_gradients(autograd::GradientFormat::bf16, PreparedFormat::bf16);
}

TEST(ProductGradient, BitsDoNotDependOnThreadsOrInstructionSet) {
  const int64_t m = 70, n = 96, k = 128;
  const Floats master = normals(n * k, 0.02, 9), x = round_to_bf16(normals(m * k, 1, 10)),
               dy = normals(m * n, 1e-5, 11), zeros(n * k);
  const auto run = [&](device::Isa isa, int threads, autograd::GradientFormat format,
                       PreparedFormat prepared_as) {
    Machine machine(isa, threads);
    return gradients(machine, format, prepare(machine, prepared_as, master, n, k), x, m, dy, zeros);
  };
  for (const auto& [format, prepared_as] :
       std::vector<std::pair<autograd::GradientFormat, PreparedFormat>>{
           {autograd::GradientFormat::bf16, PreparedFormat::bf16},
           {autograd::GradientFormat::fp8, PreparedFormat::fp8}}) {
    const Gradients expected = run(device::Isa::reference, 1, format, prepared_as);
    for (const device::Isa isa : device::machine_isas()) {
      const Gradients found = run(isa, 3, format, prepared_as);
      EXPECT_EQ(found.dx, expected.dx) << device::isa_name(isa);
      EXPECT_EQ(found.dw, expected.dw) << device::isa_name(isa);
    }
  }
}

}  // namespace
}  // namespace cachalot::train
