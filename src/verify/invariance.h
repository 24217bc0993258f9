// Bit-for-bit agreement of one full pass, of chunked passes and of token-by-token decode.
#pragma once

#include "verify/golden_report.h"
#include "verify/golden_run.h"

namespace cachalot::verify {

inline constexpr int64_t kInvarianceTokens = 1025;

// brief: whole passes of several cuttings and a neighbour, over fewer tokens; for the fault suite.
enum class Invariance { none, brief, full };

// full: over kInvarianceTokens random ids: decode token by token, every cut point's residue mod 4
// and mod 128 as a chunk border, whole passes of several cuttings, and the same sequence beside
// another in one batch. Streams and logits must be equal bits at every position.
Status verify_invariance(GoldenRunner& runner, Invariance scope, GoldenReport& report);

}  // namespace cachalot::verify
