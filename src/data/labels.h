// Targets of a pack.
// Source   reference/training 5.5 (D5), 6.4: at position i the LM predicts token i+1 and MTP depth
//          d token i+1+d, of the same sample; where the sample has no such token the label is -1
//          and gives no loss.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cachalot::data {

inline constexpr int32_t kNoLabel = -1;

// labels[i] = tokens[i + shift] if both lie in one sample, else kNoLabel. shift >= 1: 1 for the LM,
// 1 + d for MTP depth d. sample_begins: first position of each sample, ascending from 0; samples
// fill the pack without gaps.
std::vector<int32_t> shifted_labels(std::span<const int32_t> tokens,
                                    std::span<const int64_t> sample_begins, int64_t shift);

}  // namespace cachalot::data
