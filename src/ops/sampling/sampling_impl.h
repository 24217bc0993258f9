// One row of ops::sample: the definition and the fast version. Internal to ops/sampling.
#pragma once

#include <cstdint>

#include "ops/sampling/sampling.h"

namespace cachalot::ops {

struct TokenWeight {
  int32_t id;
  double weight;
};

// A sum of values of ascending ids.
class RunSum {
 public:
  static constexpr int64_t kRunIds = 512;

  void add(int64_t id, double value) {
    if (id / kRunIds != run_) {
      before_ += sum_;
      sum_ = 0;
      run_ = id / kRunIds;
    }
    sum_ += value;
  }
  double total() const { return before_ + sum_; }

 private:
  int64_t run_ = 0;
  double before_ = 0, sum_ = 0;
};

// Where one row reads and writes.
struct SampleRow {
  const float* logits;
  int64_t vocab_size;
  const SamplingRow& params;
  TokenLogprob* top;  // [params.num_top]
  uint64_t* allowed;  // or null
  // [vocab_size]; afterwards the first num_allowed places are what could have been drawn, ids
  // ascending
  TokenWeight* distribution;
};

using SampleRowKernel = SampledToken(const SampleRow&);
SampleRowKernel sample_row_ref;
SampleRowKernel sample_row_cpu;

void sample_cuda(device::ExecContext& ctx, const SampleParams& p);

// Drawing on a GPU. there: of its memory, begins with the ids; here: pinned, both of drawn_bytes.
int64_t drawn_bytes_cuda();
void copy_ids_cuda(device::ExecContext& ctx, const int32_t* from, int64_t count, int32_t* to);
void start_drawing_cuda(device::ExecContext& ctx, const SampleParams& p, std::byte* there,
                        std::byte* here);
void finish_drawing_cuda(device::ExecContext& ctx, const std::byte* here,
                         std::span<const char> wants_model_logprob, std::span<SampledToken> tokens);

}  // namespace cachalot::ops
