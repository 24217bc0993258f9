#include "data/labels.h"

#include "base/check.h"

namespace cachalot::data {

std::vector<int32_t> shifted_labels(std::span<const int32_t> tokens,
                                    std::span<const int64_t> sample_begins, int64_t shift) {
  CACHALOT_CHECK(shift >= 1);
  CACHALOT_CHECK(tokens.empty() || (!sample_begins.empty() && sample_begins.front() == 0));
  const auto num_tokens = static_cast<int64_t>(tokens.size());
  std::vector<int32_t> labels(tokens.size(), kNoLabel);
  for (size_t s = 0; s < sample_begins.size(); ++s) {
    const int64_t end = s + 1 < sample_begins.size() ? sample_begins[s + 1] : num_tokens;
    CACHALOT_CHECK(sample_begins[s] <= end && end <= num_tokens);
    for (int64_t i = sample_begins[s]; i + shift < end; ++i) {
      labels[static_cast<size_t>(i)] = tokens[static_cast<size_t>(i + shift)];
    }
  }
  return labels;
}

}  // namespace cachalot::data
