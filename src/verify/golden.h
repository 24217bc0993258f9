// verify golden DIR: compares this build with what other implementations computed for a small
// model.
// Format  config.json, model.safetensors, expected.safetensors (or .zst: expected_file.h) with
//   fp32 sets:  input_ids [b, t], logits [b, t, vocab], hidden.N [1, t, hc, d] (streams after layer
//               N, first sequence), router_experts.N, router_weights.N [b*t, k], topk.N [b, t,
//               index_topk] (-1 = none)
//   trimmed:    rows [n], the positions of which logits and hidden.N hold the rows (instead of t);
//               digest.logits [b*t, s], digest.hidden.N [t, s]: s sums of every row (digest.h), f64
//   quantised:  input_ids [b, t], prefill_len [1], exact.logits, official.streams.N [1, m, hc, d]
//               (what enters layer N of sequence 0, hc 1 where its streams are equal; the last N is
//               what leaves the last layer),
//               official.prefill_logits, official.decode_logits, official.mtp_logits
#pragma once

#include <string>

#include "base/status.h"
#include "verify/golden_report.h"
#include "verify/invariance.h"

namespace cachalot::verify {

struct VerifyOptions {
  std::string directory;
  std::string precision = "exact";
  std::string device = "cpu";
  int threads = 0;
  Invariance invariance = Invariance::full;
  bool gradients = true;  // at exact on the CPU, where the files hold them
};

// Prints one line per check. An error where the files cannot be read.
Result<GoldenReport> verify_golden(const VerifyOptions& options);

}  // namespace cachalot::verify
