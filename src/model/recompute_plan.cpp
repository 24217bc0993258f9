#include "model/recompute_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace cachalot::model {
namespace {

struct Name {
  std::string_view name;
  uint32_t tensors;
};
constexpr Name kNames[] = {{"none", 0},        {"streams", 1}, {"mixed", 2},    {"input", 4},
                           {"maps", 8},        {"norms", 16},  {"queries", 32}, {"swiglu", 64},
                           {"mhc", 1 | 2 | 4}, {"all", 127}};

}  // namespace

Result<RecomputePlan> RecomputePlan::parse(std::string_view names) {
  RecomputePlan plan;
  while (true) {
    const size_t comma = names.find(',');
    const std::string_view name = names.substr(0, comma);
    const auto* found =
        std::find_if(std::begin(kNames), std::end(kNames), [&](Name n) { return n.name == name; });
    if (found == std::end(kNames)) {
      return invalid_argument(
          fmt::format("recompute.tensors: expected none, streams, mixed, input, maps, norms, "
                      "queries, swiglu, mhc or "
                      "all, found \"{}\"",
                      name));
    }
    plan.tensors |= found->tensors;
    if (comma == std::string_view::npos) return plan;
    names.remove_prefix(comma + 1);
  }
}

int64_t RecomputePlan::rows_of_logits(int64_t vocab_size) const {
  constexpr int64_t kLogits = int64_t{1} << 22;
  return logit_rows > 0 ? logit_rows : std::max<int64_t>(1, kLogits / vocab_size);
}

int64_t optimal_block_sublayers(int64_t num_streams, int64_t num_sublayers) {
  int64_t best = 1, least = 0;
  for (int64_t block = 1; block <= num_sublayers; ++block) {
    const int64_t size =
        num_streams * ((num_sublayers + block - 1) / block) + (num_streams + 2) * block;
    if (block == 1 || size < least) best = block, least = size;
  }
  return best;
}

}  // namespace cachalot::model
