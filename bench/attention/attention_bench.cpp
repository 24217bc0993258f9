// attention_bench [--json] [--threads=N] [--isa=NAME] [--contexts=4096,1048576 | --training]
// [--seconds=S] [--cpu-clock] Sparse attention and index selection beside the machine's limits,
// measured in the same run (docs/kernels/attention.md).
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "attention_cases.h"
#include "bench_run.h"
#include "device/machine_limits.h"

namespace {

using cachalot::bench::AttentionCase;

using cachalot::bench::Timing;

struct Options : cachalot::bench::BenchOptions {
  bool training = false;
  std::vector<int64_t> contexts = {4096, 16384, 65536, 262144, 1048576};
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const std::string value = arg.substr(std::min(arg.find('=') + 1, arg.size()));
    if (arg == "--training") {
      options.training = true;
    } else if (arg.starts_with("--contexts=")) {
      options.contexts.clear();
      for (size_t at = 0; at < value.size();
           at = std::min(value.find(',', at), value.size() - 1) + 1) {
        options.contexts.push_back(std::max(256LL, std::atoll(value.c_str() + at)));
      }
    } else if (!cachalot::bench::take_option(arg, options)) {
      return false;
    }
  }
  return !options.contexts.empty();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    fmt::print(stderr,
               "attention_bench [--json] [--threads=N] [--isa=NAME] [--contexts=A,B | --training] "
               "[--seconds=S] [--cpu-clock]\n");
    return 1;
  }
  cachalot::ThreadPool pool(options.num_threads);
  cachalot::device::Arena arena;
  cachalot::device::ExecContext ctx{&pool, &arena, options.isa};
  const double f32_peak = cachalot::device::measure_f32_peak(pool, options.isa);
  const double bf16_peak = cachalot::device::measure_bf16_peak(pool, options.isa);
  const double bandwidth = cachalot::device::measure_read_bandwidth(pool);
  if (!options.json) {
    fmt::print("{}, {} threads: f32 {:.1f}, bf16 {:.1f} GFLOP/s, read {:.1f} GB/s\n",
               cachalot::device::isa_name(options.isa), options.num_threads, f32_peak / 1e9,
               bf16_peak / 1e9, bandwidth / 1e9);
    fmt::print("{:<23} {:<5} {:>8} {:>5} {:>11} {:>11} {:>9} {:>7} {:>7}\n", "case", "math",
               "context", "rows", "median ms", "min ms", "GFLOP/s", "peak", "read");
  }
  for (const AttentionCase& c : options.training
                                    ? cachalot::bench::make_training_cases()
                                    : cachalot::bench::make_attention_cases(options.contexts)) {
    const Timing t = measure(options, [&] { c.run(ctx); });
    const double rate = c.flops / t.median;
    const double compute_share = rate / (c.bf16_math ? bf16_peak : f32_peak);
    const double memory_share = c.bytes / t.median / bandwidth;
    const char* math = c.bf16_math ? "bf16" : "f32";
    if (options.json) {
      fmt::print(
          "{{\"case\":\"{}\",\"math\":\"{}\",\"isa\":\"{}\",\"threads\":{},\"context\":{},\"rows\":"
          "{},"
          "\"median_s\":{:.9f},\"min_s\":{:.9f},\"runs\":{},\"flops\":{:.0f},\"bytes\":{:.0f},"
          "\"compute_share\":{:.4f},\"memory_share\":{:.4f}}}\n",
          c.name, math, cachalot::device::isa_name(options.isa), options.num_threads, c.context,
          c.rows, t.median, t.min, t.num_runs, c.flops, c.bytes, compute_share, memory_share);
    } else {
      fmt::print("{:<23} {:<5} {:>8} {:>5} {:>11.4f} {:>11.4f} {:>9.1f} {:>6.1f}% {:>6.1f}%\n",
                 c.name, math, c.context, c.rows, t.median * 1e3, t.min * 1e3, rate / 1e9,
                 100 * compute_share, 100 * memory_share);
    }
  }
}
