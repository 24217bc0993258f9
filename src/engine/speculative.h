// Lossless verification of drafted tokens: what comes out is distributed as if the main model had
// sampled every token itself.
// Rule    Accept draft token d, drawn from q, with probability min(1, p(d) / q(d)); else draw from
//         max(p - q, 0), normalised. Then P(token = x) = min(p, q)(x) + (1 - sum min(p, q)) *
//         max(p - q, 0)(x) / sum max(p - q, 0) = p(x), for any q.
// Source  reference/forward 5.3.
// Random  Acceptance and draw are keyed by (seed, purpose, position of the token decided), each
//         position being decided once, so the result does not depend on the batch. It does depend
//         on where drafts start; with verify_by_drawing it does not.
// Target  The distribution (sampler.h) that the parameters make of the main model's logits after
//         the tokens before it, earlier drafts included, both in the text and in the history.
#pragma once

#include <cstdint>
#include <span>

#include "engine/sampler.h"

namespace cachalot::engine {

struct Verdict {
  bool accepted;
  SampledToken token;  // the token at the position: the draft if accepted; logprob is the target's
};

// One position. draft_token was drawn from `draft`; CHECK: it has a probability there. For a draft
// chosen as the draft model's best token, `draft` is {{draft_token, 1}}.
Verdict verify_draft(const Distribution& target, const Distribution& draft, int32_t draft_token,
                     uint64_t seed, int64_t position);

// One position: draws the target's token with the numbers sampling without drafts would use, and
// accepts a draft that equals it. Bit for bit the text without drafts. Accepts with probability
// p(d), which for a best-token draft is what verify_draft does too.
Verdict verify_by_drawing(const Distribution& target, int32_t draft_token, uint64_t seed,
                          int64_t position);

// The random numbers a draft token at `position` is drawn with.
inline RngStream draft_stream(uint64_t seed, int64_t position) {
  return {seed, RngPurpose::draft, static_cast<uint64_t>(position)};
}

struct VerifiedDrafts {
  int64_t num_accepted;  // the first so many drafts stand
  SampledToken next;     // the token after them: the correction of the first rejected draft, or one
                         // more where none was
};

// verify_draft over a run. drafts, draft_tokens [n], targets [n + 1]; draft i proposes the token at
// first_position + i.
VerifiedDrafts verify_drafts(std::span<const Distribution> targets,
                             std::span<const Distribution> drafts,
                             std::span<const int32_t> draft_tokens, uint64_t seed,
                             int64_t first_position);

// Greedy decoding: drafts stand while they equal the main model's best tokens. best_tokens [n + 1].
int64_t count_greedy_accepted(std::span<const int32_t> best_tokens,
                              std::span<const int32_t> draft_tokens);

}  // namespace cachalot::engine
