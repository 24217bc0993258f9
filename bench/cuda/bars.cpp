#include "cuda/bars.h"

namespace cachalot::bench {
namespace {

constexpr std::string_view kExperts = "expert layer, official-fp8";
constexpr std::string_view kSplit = "sparse decode, split", kWhole = "sparse decode, whole";
constexpr std::string_view kIndex = "index with top-k";

// Measured on an H200 in one run each; of the experts the two products alone.
constexpr Bar kBars[] = {
    {kExperts, "Flash, 1 token", "49", "28"},
    {kExperts, "Flash, 4 tokens", "145", "100"},
    {kExperts, "Flash, 16 tokens", "467", "310"},
    {kExperts, "Flash, 64 tokens", "1127", "760"},
    {kExperts, "Flash, 512 tokens", "1611", "1300"},
    {"dense, official-fp8", "Flash, five products of a layer, 1 token", "54", "35"},
    {"dense, bf16 activations", "Flash wo_a 8 x 4096 -> 1024, 1 token", "-", "12"},
    {"over x, official-fp8", "Flash all of a CSA layer, 1 token", "-", "10"},
    {kIndex, "Flash, 262144 keys, 1 token", "80", "35"},
    {kIndex, "Flash, 262144 keys, 8 tokens", "155", "110"},
    {"index prefill with top-k", "Flash, 32768 keys, 4096 tokens", "3800", "3000"},
    {kSplit, "Flash, 1 token", "13", "13"},
    {kSplit, "Flash, 8 tokens", "15.5", "15.5"},
    {kWhole, "Flash, 64 tokens", "45", "45"},
    {kWhole, "Flash, 128 tokens", "46", "46"},
    {"sparse prefill", "Flash, 32768 entries, 4096 tokens", "620 from bf16 rows", "620"},
    {"mHC boundary", "Flash, 1 token", "3.7, its product alone", "8"},
};

}  // namespace

Bar bar_of(std::string_view kernel, std::string_view shape) {
  for (const Bar& bar : kBars) {
    if (bar.kernel == kernel && bar.shape == shape) return bar;
  }
  return {};
}

}  // namespace cachalot::bench
