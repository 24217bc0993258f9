#include "ops/attention/key_gradient.h"

#include <algorithm>

namespace cachalot::ops {

const BackwardKernels& backward_kernels(device::Isa isa) {
  return isa == device::Isa::avx2 ? kBackwardAvx2 : kBackwardAvx512;
}

namespace {

// A task's part of d, 64 x 64 floats, and one token's coefficients and channels for it stay near
// the first-level cache. A list that leaves rows out takes as many more rows as give it that many
// keys: with less than a register tile's rows a token, the products would wait for their own sums.
constexpr int64_t kTaskKeys = 64;
constexpr int64_t kTaskChannels = 64;

struct Range {
  int64_t begin;
  int64_t end;
};

Range rows_of(const TokenKeys& token) {
  if (token.n == 0) return {0, 0};
  if (token.list == nullptr) return {token.first, token.first + token.n};
  return {token.list[0], token.list[token.n - 1] + 1};
}

// Places of the token's list whose rows lie in `rows`.
Range places_in(const TokenKeys& token, Range rows) {
  if (token.list == nullptr) {
    const int64_t begin = std::clamp<int64_t>(rows.begin - token.first, 0, token.n);
    return {begin, std::clamp<int64_t>(rows.end - token.first, begin, token.n)};
  }
  const int32_t* end = token.list + token.n;
  const int32_t* first = std::lower_bound(token.list, end, rows.begin);
  return {first - token.list, std::lower_bound(first, end, rows.end) - token.list};
}

void add_to_rows(const KeyGradientParams& p, const BackwardKernels& kernels, Range rows,
                 Range channels) {
  float* d[kTaskKeys];
  for (int64_t t = 0; t < p.num_tokens; ++t) {
    const TokenKeys& token = p.tokens[t];
    const Range places = places_in(token, rows);
    for (int64_t i = places.begin; i < places.end; i += kTaskKeys) {
      const int64_t n = std::min(kTaskKeys, places.end - i);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t row = token.list == nullptr ? token.first + i + j : token.list[i + j];
        d[j] = p.d + row * p.dim;
      }
      kernels.add_terms(d, n, token.coefficients + i * p.stride, p.stride,
                        p.terms + t * p.num_terms, p.num_terms, channels.begin, channels.end);
    }
  }
}

}  // namespace

void add_key_gradients(device::ExecContext& ctx, const KeyGradientParams& p) {
  Range all = {0, 0};
  int64_t longest = 0;
  bool listed = false;
  for (int64_t t = 0; t < p.num_tokens; ++t) {
    const Range rows = rows_of(p.tokens[t]);
    if (rows.begin == rows.end) continue;
    all = longest == 0 ? rows : Range{std::min(all.begin, rows.begin), std::max(all.end, rows.end)};
    longest = std::max(longest, p.tokens[t].n);
    listed = listed || p.tokens[t].list != nullptr;
  }
  if (longest == 0) return;
  const int64_t task_rows =
      listed ? std::max(kTaskKeys, (all.end - all.begin) * kTaskKeys / longest) : kTaskKeys;
  const int64_t row_tasks = (all.end - all.begin + task_rows - 1) / task_rows;
  const int64_t channel_tasks = (p.dim + kTaskChannels - 1) / kTaskChannels;
  const BackwardKernels& kernels = backward_kernels(ctx.isa);
  ctx.pool->run(row_tasks * channel_tasks, [&](int64_t task, int) {
    const int64_t row = all.begin + task / channel_tasks * task_rows;
    const int64_t channel = task % channel_tasks * kTaskChannels;
    add_to_rows(p, kernels, {row, std::min(all.end, row + task_rows)},
                {channel, std::min(p.dim, channel + kTaskChannels)});
  });
}

}  // namespace cachalot::ops
