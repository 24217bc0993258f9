// verify posttrain DIR --model MODEL: losses, gradients and estimators of post-training against
// what other implementations computed for a model (reference/post-training 2, 8, 10, 15).
// Format  DIR/eval (posttrain_eval.h), DIR/grpo (posttrain_grpo.h), DIR/sft (posttrain_sft.h),
//         DIR/opd (posttrain_opd.h).
//         Expected values are float64; the bounds of what goes through the model are those of an
//         fp32 implementation, of formulas alone 1e-10.
#pragma once

#include <string>

#include "base/status.h"
#include "verify/golden_report.h"

namespace cachalot::verify {

struct PosttrainOptions {
  std::string directory;
  std::string model;
  int threads = 0;  // 0: one per usable core
};

// Prints one line per check. An error where files cannot be read or are of another layout.
Result<GoldenReport> verify_posttrain(const PosttrainOptions& options);

}  // namespace cachalot::verify
