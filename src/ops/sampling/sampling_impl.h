// One row of ops::sample: the definition and the fast version. Internal to ops/sampling.
#pragma once

#include <cstdint>

#include "ops/sampling/sampling.h"

namespace cachalot::ops {

struct TokenProbability {
  int32_t id;
  double probability;
};

// Where one row reads and writes.
struct SampleRow {
  const float* logits;
  int64_t vocab_size;
  const SamplingRow& params;
  TokenLogprob* top;  // [params.num_top]
  uint64_t* allowed;  // or null
  // [vocab_size]; afterwards the first num_allowed places are what could have been drawn, ids
  // ascending, probabilities with sum 1
  TokenProbability* distribution;
};

using SampleRowKernel = SampledToken(const SampleRow&);
SampleRowKernel sample_row_ref;
SampleRowKernel sample_row_cpu;

}  // namespace cachalot::ops
