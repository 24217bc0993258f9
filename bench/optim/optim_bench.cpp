// optim_bench [--json] [--threads=N] [--isa=NAME] [--seconds=S] [--cpu-clock]
// The optimizers beside the machine's limits, measured in the same run: Newton-Schulz as a share of
// f32 multiply-adds, AdamW's 28 bytes an element beside the bandwidth of one stream that is read
// (its seven streams in and out get more than one does). FLOPs of Newton-Schulz are counted without
// symmetry (reference/training 3.3), of which the kernels skip up to a third: a share above 100 %
// is possible (docs/kernels/newton_schulz.md).
#include <fmt/format.h>

#include <string>
#include <vector>

#include "base/rng.h"
#include "bench_run.h"
#include "device/machine_limits.h"
#include "ops/optim/adamw.h"
#include "ops/optim/newton_schulz.h"

namespace {

using cachalot::device::ExecContext;

using cachalot::bench::BenchOptions;
using cachalot::bench::Timing;

// `rate` per second of the median, `share` of the limit that it comes to.
void print(const BenchOptions& options, const std::string& name, const std::string& shape,
           const Timing& t, double amount, const char* unit, double limit) {
  const double rate = amount / t.median;
  if (options.json) {
    fmt::print(
        "{{\"case\":\"{}\",\"shape\":\"{}\",\"isa\":\"{}\",\"threads\":{},\"median_s\":{:.9f},"
        "\"min_s\":{:.9f},\"amount\":{:.0f},\"unit\":\"{}\",\"share\":{:.4f}}}\n",
        name, shape, cachalot::device::isa_name(options.isa), options.num_threads, t.median, t.min,
        amount, unit, rate / limit);
  } else {
    fmt::print(
        "{:<14} {:<22} {:>10.4f} ms, min {:>10.4f} {:>8.1f} G{}/s {:>6.1f}%, max {:>6.1f}%\n", name,
        shape, t.median * 1e3, t.min * 1e3, rate / 1e9, unit, 100 * rate / limit,
        100 * amount / t.min / limit);
  }
}

struct Shape {
  int64_t count, rows, columns;
};

void bench_newton_schulz(const BenchOptions& options, ExecContext& ctx, double peak,
                         const Shape& s) {
  const auto size = static_cast<size_t>(s.rows * s.columns);
  std::vector<float> u(size * static_cast<size_t>(s.count)), out(u.size());
  cachalot::RngStream rng(1, cachalot::RngPurpose::data, 1);
  for (float& x : u) x = static_cast<float>(rng.next_normal());
  std::vector<const float*> from;
  std::vector<float*> to;
  for (size_t i = 0; i < u.size(); i += size) from.push_back(&u[i]), to.push_back(&out[i]);
  const Timing t = measure(options, [&] {
    cachalot::ops::newton_schulz(ctx, {s.rows, s.columns, from, to, false});
  });
  const double flops =
      static_cast<double>(s.count) * cachalot::ops::newton_schulz_flops(s.rows, s.columns);
  print(options, "newton_schulz", fmt::format("{}x[{},{}]", s.count, s.rows, s.columns), t, flops,
        "FLOP", peak);
}

void bench_adamw(const BenchOptions& options, ExecContext& ctx, double bandwidth, int64_t n) {
  const auto size = static_cast<size_t>(n);
  std::vector<float> g(size, 0.5f), w(size, 1.0f), m(size, 0.0f), v(size, 0.0f);
  const Timing t = measure(options, [&] {
    cachalot::ops::adamw(ctx, {.n = n,
                               .g = g.data(),
                               .w = w.data(),
                               .m = m.data(),
                               .v = v.data(),
                               .step = 3,
                               .learning_rate = 1e-4});
  });
  print(options, "adamw", fmt::format("[{}]", n), t, 28.0 * static_cast<double>(n), "B", bandwidth);
}

}  // namespace

int main(int argc, char** argv) {
  BenchOptions options;
  for (int i = 1; i < argc; ++i) {
    if (cachalot::bench::take_option(argv[i], options)) continue;
    fmt::print(stderr,
               "optim_bench [--json] [--threads=N] [--isa=NAME] [--seconds=S] [--cpu-clock]\n");
    return 1;
  }
  cachalot::ThreadPool pool(options.num_threads);
  cachalot::device::Arena arena;
  ExecContext ctx{&pool, &arena, options.isa};
  const double peak = cachalot::device::measure_f32_peak(pool, options.isa);
  const double bandwidth = cachalot::device::measure_read_bandwidth(pool);
  if (!options.json) {
    fmt::print("{}, {} threads: f32 {:.1f} GFLOP/s, read {:.1f} GB/s\n",
               cachalot::device::isa_name(options.isa), options.num_threads, peak / 1e9,
               bandwidth / 1e9);
  }
  // From a nano model's experts to one matrix of a mini model's.
  for (const Shape& s :
       {Shape{64, 32, 128}, Shape{64, 64, 256}, Shape{16, 96, 256}, Shape{16, 128, 512},
        Shape{8, 256, 256}, Shape{1, 256, 1024}, Shape{2, 512, 2048}, Shape{1, 1024, 1024}}) {
    bench_newton_schulz(options, ctx, peak, s);
  }
  bench_adamw(options, ctx, bandwidth, int64_t{1} << 24);
}
