#include "matmul/matmul_bench.h"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/rng.h"
#include "device/exec_context.h"
#include "device/machine_limits.h"
#include "numeric/formats.h"
#include "ops/matmul/matmul.h"
#include "ops/matmul/matmul_backward.h"

namespace cachalot::bench {
namespace {

using ops::MatmulMath;
using ops::PackedWeight;
using ops::WeightFormat;

constexpr double kColdBytes = 192e6;  // weights rotate through at least this much

struct Contender {
  std::string implementation;
  WeightFormat format;
  MatmulMath math;
  int copies;
  double bytes;
  std::function<void(int)> run;
  std::vector<double> seconds;
  std::string op = "y";
};

// Random weights of the format; every scale 1/2.
std::vector<PackedWeight> make_weights(device::ExecContext& ctx, WeightFormat format, int64_t n,
                                       int64_t k, int copies) {
  using tensor::DType;
  const bool fp4 = format == WeightFormat::fp4;
  tensor::QuantTensor t;
  t.rows = n;
  t.columns = k;
  t.weight.dtype = format == WeightFormat::f32    ? DType::f32
                   : format == WeightFormat::bf16 ? DType::bf16
                   : fp4                          ? DType::i8
                                                  : DType::f8_e4m3;
  t.weight.shape = {n, fp4 ? k / 2 : k};
  RngStream rng(1, RngPurpose::weights, 0);
  std::vector<uint8_t> codes(static_cast<size_t>(t.weight.num_bytes()));
  for (int64_t i = 0; i < t.weight.num_elements(); ++i) {
    const uint32_t random = rng.next_u32();
    const float uniform = static_cast<float>(random) * 0x1p-31f - 1.0f;
    switch (format) {
      case WeightFormat::f32: std::memcpy(&codes[i * 4], &uniform, 4); break;
      case WeightFormat::bf16: {
        const uint16_t bits = numeric::bf16_from_float(uniform);
        std::memcpy(&codes[i * 2], &bits, 2);
        break;
      }
      // A block's scale makes its largest weight 448: subnormal codes are as rare as in a
      // checkpoint.
      case WeightFormat::fp8: codes[i] = numeric::e4m3_from_float(448 * uniform); break;
      case WeightFormat::fp4: codes[i] = static_cast<uint8_t>(random >> 24); break;
    }
  }
  t.weight.data = reinterpret_cast<const std::byte*>(codes.data());
  std::vector<uint8_t> scales;
  if (const int64_t group = ops::scale_group(format); group != 0) {
    t.block_rows = fp4 ? 1 : 128;
    t.block_columns = group;
    t.scale.dtype = DType::f8_e8m0;
    t.scale.shape = {(n + t.block_rows - 1) / t.block_rows, (k + group - 1) / group};
    scales.assign(static_cast<size_t>(t.scale.num_bytes()), 126);
    t.scale.data = reinterpret_cast<const std::byte*>(scales.data());
  }
  std::vector<PackedWeight> weights;
  for (int i = 0; i < copies; ++i) weights.push_back(std::move(PackedWeight::pack(ctx, t)).value());
  return weights;
}

double weight_bytes(WeightFormat format, int64_t n, int64_t k) {
  const double bytes = format == WeightFormat::f32    ? 4
                       : format == WeightFormat::bf16 ? 2
                       : format == WeightFormat::fp8  ? 1
                                                      : 0.5 + 1.0 / 32;
  return bytes * static_cast<double>(n) * static_cast<double>(k);
}

int num_copies(double bytes, bool cold) {
  return cold ? static_cast<int>(kColdBytes / bytes) + 2 : 1;
}

Contender ours(device::ExecContext& ctx, WeightFormat format, MatmulMath math, int64_t m, int64_t n,
               int64_t k, bool cold) {
  Contender c{"cachalot", format, math, 0, 0, {}, {}};
  const double bytes = weight_bytes(format, n, k);
  c.copies = num_copies(bytes, cold);
  c.bytes = bytes + 4.0 * static_cast<double>(m * (n + k));
  auto weights =
      std::make_shared<std::vector<PackedWeight>>(make_weights(ctx, format, n, k, c.copies));
  auto x = std::make_shared<std::vector<float>>(static_cast<size_t>(m * k));
  RngStream rng(2, RngPurpose::data, 0);
  for (float& value : *x)
    value = numeric::round_to_bf16(static_cast<float>(rng.next_unit()) - 0.5f);
  auto y = std::make_shared<std::vector<float>>(static_cast<size_t>(m * n));
  c.run = [&ctx, weights, x, y, m, n, k, math](int copy) {
    ops::matmul(ctx, {x->data(), m, k, nullptr, &(*weights)[copy], y->data(), n, math, false});
  };
  return c;
}

Contender theirs(Yardstick& yardstick, bool bf16, int64_t m, int64_t n, int64_t k, bool cold) {
  const WeightFormat format = bf16 ? WeightFormat::bf16 : WeightFormat::f32;
  Contender c{yardstick.name(), format, bf16 ? MatmulMath::bf16 : MatmulMath::f32, 0, 0, {}, {}};
  const double bytes = weight_bytes(format, n, k);
  c.copies = num_copies(bytes, cold);
  c.bytes = bytes + (bf16 ? 2.0 : 4.0) * static_cast<double>(m * (n + k));
  c.run = yardstick.product(bf16, m, n, k, c.copies);
  return c;
}

double now_s(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// Every contender once a round, until the time is used and there are five rounds.
void time_interleaved(const MatmulBenchOptions& options, int num_threads,
                      std::vector<Contender>& contenders) {
  const clockid_t clock = options.cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
  const double share = options.cpu_clock ? num_threads : 1;
  for (Contender& c : contenders) c.run(0);
  const double begin = now_s(CLOCK_MONOTONIC);
  for (int round = 1; round <= 5 || now_s(CLOCK_MONOTONIC) - begin < options.seconds_per_case;
       ++round) {
    for (Contender& c : contenders) {
      const double run_begin = now_s(clock);
      c.run(round % c.copies);
      c.seconds.push_back((now_s(clock) - run_begin) / share);
    }
  }
}

// Sorts the contenders' times into the report. A yardstick follows the contender of ours that it is
// compared with.
void add_timings(ThreadPool& pool, const MatmulLimits& limits, int64_t m, int64_t n, int64_t k,
                 std::vector<Contender>& contenders, MatmulReport& report) {
  for (Contender& c : contenders) {
    std::sort(c.seconds.begin(), c.seconds.end());
    const bool bf16 = c.math == MatmulMath::bf16;
    MatmulTiming t{c.implementation,
                   c.op,
                   std::string(ops::weight_format_name(c.format)),
                   bf16 ? "bf16" : "f32",
                   pool.num_threads(),
                   c.op == "pack" ? 0 : m,
                   n,
                   k,
                   static_cast<int>(c.seconds.size()),
                   c.seconds[c.seconds.size() / 2],
                   c.seconds[0],
                   c.bytes,
                   0,
                   0,
                   0};
    t.compute_share = t.flops() / t.median_s / (bf16 ? limits.bf16_flops : limits.f32_flops);
    t.memory_share = t.bytes / t.median_s / limits.bytes_per_s;
    report.timings.push_back(t);
    if (c.implementation != "cachalot") {
      MatmulTiming& own = report.timings[report.timings.size() - 2];
      own.yardstick_ratio = t.median_s / own.median_s;
    }
  }
}

void run_case(const MatmulBenchOptions& options, ThreadPool& pool, const MatmulLimits& limits,
              int64_t m, int64_t n, int64_t k, bool cold, MatmulReport& report) {
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, options.isa};
  std::vector<Contender> contenders;
  contenders.push_back(ours(ctx, WeightFormat::f32, MatmulMath::f32, m, n, k, cold));
  if (options.yardstick != nullptr)
    contenders.push_back(theirs(*options.yardstick, false, m, n, k, cold));
  contenders.push_back(ours(ctx, WeightFormat::bf16, MatmulMath::bf16, m, n, k, cold));
  if (options.yardstick != nullptr && options.yardstick->has_native_bf16()) {
    contenders.push_back(theirs(*options.yardstick, true, m, n, k, cold));
  }
  contenders.push_back(ours(ctx, WeightFormat::fp8, MatmulMath::bf16, m, n, k, cold));
  contenders.push_back(ours(ctx, WeightFormat::fp4, MatmulMath::bf16, m, n, k, cold));
  time_interleaved(options, pool.num_threads(), contenders);
  add_timings(pool, limits, m, n, k, contenders, report);
}

// A training step's work beside the forward product. The yardstick has its operand packed
// beforehand and does not add to what is there.
void run_gradient_case(const MatmulBenchOptions& options, ThreadPool& pool,
                       const MatmulLimits& limits, int64_t m, int64_t n, int64_t k,
                       MatmulReport& report) {
  device::Arena arena;
  device::ExecContext ctx{&pool, &arena, options.isa};
  RngStream rng(3, RngPurpose::data, 0);
  const auto random = [&](int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = static_cast<float>(rng.next_unit()) - 0.5f;
    return values;
  };
  const std::vector<float> x = random(m * k), dy = random(m * n), w = random(n * k);
  std::vector<float> dx(x.size()), dw(w.size());
  PackedWeight plain, transposed;
  transposed.assign_transposed(ctx, WeightFormat::f32, {w.data(), n, k, k});

  std::vector<Contender> contenders;
  const auto add = [&](std::string op, double values_touched, std::function<void(int)> run) {
    contenders.push_back({"cachalot",
                          WeightFormat::f32,
                          MatmulMath::f32,
                          1,
                          4 * values_touched,
                          std::move(run),
                          {},
                          std::move(op)});
  };
  const auto add_yardstick = [&](int64_t rows, int64_t outputs, int64_t inputs) {
    if (options.yardstick == nullptr) return;
    Contender c = theirs(*options.yardstick, false, rows, outputs, inputs, false);
    c.op = contenders.back().op;
    contenders.push_back(std::move(c));
  };
  add("dx", static_cast<double>(m * n + 2 * m * k + n * k), [&](int) {
    ops::matmul(ctx, {.x = dy.data(),
                      .m = m,
                      .x_stride = n,
                      .w = &transposed,
                      .y = dx.data(),
                      .y_stride = k,
                      .math = MatmulMath::f32,
                      .accumulate = true});
  });
  add_yardstick(m, k, n);
  add("dw", static_cast<double>(m * n + m * k + 2 * n * k), [&](int) {
    ops::matmul_weight_grad(ctx, {.dy = dy.data(),
                                  .m = m,
                                  .dy_stride = n,
                                  .x = x.data(),
                                  .x_stride = k,
                                  .dw = dw.data(),
                                  .n = n,
                                  .k = k,
                                  .dw_stride = k});
  });
  add_yardstick(n, k, m);
  add("pack", static_cast<double>(4 * n * k), [&](int) {
    plain.assign(ctx, WeightFormat::f32, {w.data(), n, k, k});
    transposed.assign_transposed(ctx, WeightFormat::f32, {w.data(), n, k, k});
  });
  time_interleaved(options, pool.num_threads(), contenders);
  add_timings(pool, limits, m, n, k, contenders, report);
}

}  // namespace

MatmulReport run_matmul_bench(const MatmulBenchOptions& options) {
  MatmulReport report;
  report.isa = device::isa_name(options.isa);
  for (int num_threads : options.num_threads) {
    ThreadPool pool(num_threads);
    if (options.yardstick != nullptr) options.yardstick->set_num_threads(num_threads);
    const MatmulLimits limits{num_threads, device::measure_f32_peak(pool, options.isa),
                              device::measure_bf16_peak(pool, options.isa),
                              device::measure_read_bandwidth(pool)};
    report.limits.push_back(limits);
    for (int64_t size : options.squares)
      run_case(options, pool, limits, size, size, size, false, report);
    for (int64_t m : options.rows) run_case(options, pool, limits, m, 4096, 4096, true, report);
    for (int64_t m : options.gradient_rows)
      run_gradient_case(options, pool, limits, m, 1024, 1024, report);
  }
  return report;
}

}  // namespace cachalot::bench
