// Hyper-connections, recorded. Source: ops/hyper/hyper_connection.h, which says what each does.
#pragma once

#include "autograd/tape.h"
#include "ops/hyper/hyper_connection.h"

namespace cachalot::autograd {

void hyper_inv_rms(Context ctx, const float* streams, int64_t rows, int64_t columns, float eps,
                   float* inv_rms);
void hyper_split(Context ctx, const ops::HyperSplitParams& p);
void hyper_head_split(Context ctx, const float* mixes, const float* inv_rms, const float* base,
                      const float* scale, int64_t rows, int64_t n, float hc_eps, float* pre);
void hyper_pre(Context ctx, const float* streams, const float* pre, int64_t rows, int64_t n,
               int64_t d, bool round_u, float* u);
// With a tape, out is not streams.
void hyper_post(Context ctx, const float* streams, const float* y, const float* post,
                const float* comb, int64_t rows, int64_t n, int64_t d, bool round_x, float* out);

}  // namespace cachalot::autograd
