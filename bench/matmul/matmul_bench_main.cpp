// matmul_bench [--json] [--threads=1,2] [--squares=1024,2048] [--rows=1,4,16,64]
// [--gradient-rows=64,2048] [--seconds=S]
//              [--isa=NAME] [--cpu-clock] [--no-yardstick]
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string_view>

#include "matmul/matmul_bench.h"

namespace {

template <typename T>
std::vector<T> numbers(std::string_view text) {
  std::vector<T> values;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    values.push_back(static_cast<T>(std::atoll(std::string(text.substr(0, comma)).c_str())));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return values;
}

}  // namespace

int main(int argc, char** argv) {
#ifdef CACHALOT_HAS_ONEDNN
  // A team that spins between its products would take the second core from ours. OpenMP reads this
  // when it is loaded.
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) {
    setenv("OMP_WAIT_POLICY", "passive", 1);
    execv("/proc/self/exe", argv);
  }
#endif
  cachalot::bench::MatmulBenchOptions options;
  bool json = false, with_yardstick = true;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    auto value = [&](std::string_view name) { return arg.substr(name.size()); };
    if (arg == "--json") {
      json = true;
    } else if (arg == "--cpu-clock") {
      options.cpu_clock = true;
    } else if (arg == "--no-yardstick") {
      with_yardstick = false;
    } else if (arg.starts_with("--threads=")) {
      options.num_threads = numbers<int>(value("--threads="));
    } else if (arg.starts_with("--squares=")) {
      options.squares = numbers<int64_t>(value("--squares="));
    } else if (arg.starts_with("--rows=")) {
      options.rows = numbers<int64_t>(value("--rows="));
    } else if (arg.starts_with("--gradient-rows=")) {
      options.gradient_rows = numbers<int64_t>(value("--gradient-rows="));
    } else if (arg.starts_with("--seconds=")) {
      options.seconds_per_case = std::atof(std::string(value("--seconds=")).c_str());
    } else if (arg.starts_with("--isa=")) {
      const auto isa = cachalot::device::parse_isa(value("--isa="));
      if (!isa.has_value() || *isa > cachalot::device::machine_isa()) {
        fmt::print(stderr, "--isa: expected at most {} here, found \"{}\"\n",
                   cachalot::device::isa_name(cachalot::device::machine_isa()), value("--isa="));
        return 1;
      }
      options.isa = *isa;
    } else {
      fmt::print(stderr, "unknown argument {}\n", arg);
      return 1;
    }
  }
  std::unique_ptr<cachalot::bench::Yardstick> yardstick;
#ifdef CACHALOT_HAS_ONEDNN
  if (with_yardstick) yardstick = cachalot::bench::make_onednn();
#endif
  options.yardstick = with_yardstick ? yardstick.get() : nullptr;
  const auto report = cachalot::bench::run_matmul_bench(options);
  fmt::print("{}", json ? report.to_json() : report.to_text());
}
