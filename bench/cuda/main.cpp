// cuda_kernels_bench [dense] [bf16] [experts] [boundary] [index] [index-prefill] [attention]: one
// table of the GPU's kernels, each checked before it is timed. All of them where none is named.
// Exit 1 where a check fails.
#include <cstdio>
#include <cstring>

#include "cuda/harness.h"

int main(int argc, char** argv) {
  using namespace cachalot;
  struct Part {
    const char* name;
    void (*run)(bench::Harness&);
  };
  const Part parts[] = {
      {"dense", bench::bench_dense},        {"bf16", bench::bench_bf16},
      {"experts", bench::bench_experts},    {"boundary", bench::bench_boundary},
      {"index", bench::bench_index},        {"index-prefill", bench::bench_index_prefill},
      {"attention", bench::bench_attention}};
  for (int i = 1; i < argc; ++i) {
    bool known = false;
    for (const Part& part : parts) known |= std::strcmp(argv[i], part.name) == 0;
    if (!known) {
      std::fprintf(stderr, "cuda_kernels_bench: expected a part's name, found %s\n", argv[i]);
      return 2;
    }
  }
  const Result<device::cuda::Device> device = device::cuda::open_device(0);
  if (!device) {
    std::fprintf(stderr, "cuda_kernels_bench: %s\n", device.error().message().c_str());
    return 2;
  }
  bench::Harness harness(*device);
  for (const Part& part : parts) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted |= std::strcmp(argv[i], part.name) == 0;
    if (wanted) part.run(harness);
  }
  return harness.all_checked() ? 0 : 1;
}
