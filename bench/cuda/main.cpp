// cuda_kernels_bench [--table=FILE] [dense] [bf16] [experts] [boundary] [index] [index-prefill]
// [attention] [order]: the kernels of a GPU, each checked before it is timed; all parts where none
// is named. FILE gets the rows as Markdown (tools/kernel_table). Exit 1 where a check fails.
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "cuda/harness.h"

namespace cachalot::bench {
namespace {

struct Part {
  std::string_view name;
  void (*run)(Harness&);
};

constexpr Part kParts[] = {{"dense", bench_dense},         {"bf16", bench_bf16},
                           {"experts", bench_experts},     {"boundary", bench_boundary},
                           {"index", bench_index},         {"index-prefill", bench_index_prefill},
                           {"attention", bench_attention}, {"order", bench_order}};

int fail(const std::string& message) {
  std::fprintf(stderr, "cuda_kernels_bench: %s\n", message.c_str());
  return 2;
}

int run(const std::vector<std::string>& arguments) {
  constexpr std::string_view kTable = "--table=";
  std::string table;
  std::vector<std::string> wanted;
  for (const std::string& argument : arguments) {
    if (argument.starts_with(kTable)) {
      table = argument.substr(kTable.size());
    } else if (std::ranges::find(kParts, argument, &Part::name) != std::end(kParts)) {
      wanted.push_back(argument);
    } else {
      return fail("expected a part's name, found " + argument);
    }
  }
  const Result<cuda::Device> device = cuda::open_device(0);
  if (!device) return fail(device.error().message());
  const Result<MatrixRates> rates = gpu_matrix_rates(0, 0.02);
  if (!rates) return fail(rates.error().message());
  Harness harness(*device, *rates);
  for (const Part& part : kParts) {
    if (wanted.empty() || std::ranges::find(wanted, part.name) != wanted.end()) part.run(harness);
  }
  if (!table.empty()) {
    const std::string text = harness.markdown();
    if (const Status written = write_file_atomically(table, std::string_view(text)); !written.ok())
      return fail(written.message());
  }
  return harness.all_checked() ? 0 : 1;
}

}  // namespace
}  // namespace cachalot::bench

int main(int argc, char** argv) {
  return cachalot::bench::run(std::vector<std::string>(argv + 1, argv + argc));
}
