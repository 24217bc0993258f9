#include "ops/attention/key_gradient.h"

#include <algorithm>

namespace cachalot::ops {

const BackwardKernels& backward_kernels(device::Isa isa) {
  return isa == device::Isa::avx2 ? kBackwardAvx2 : kBackwardAvx512;
}

namespace {

// A task is some rows by some channels of d; how it is cut changes no bit. Every task reads the
// tokens' rows for its channels and their coefficients for its keys, so that few and large ones
// read less: up to 256 x 256, what fits the second-level cache, as long as all threads have some. A
// list that leaves rows out takes as many more rows as give it 64 keys a token: with less than a
// register tile's keys the products would wait for their own sums.
constexpr int64_t kMaxTaskRows = 256;
constexpr int64_t kMinTaskRows = 32;
constexpr int64_t kMinTaskKeys = 64;
constexpr int64_t kTaskChannels = 256;
constexpr int64_t kTasksPerThread = 4;

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
                 Range channels, float* panel) {
  float* d[kMaxTaskRows];
  for (int64_t t = 0; t < p.num_tokens; ++t) {
    const TokenKeys& token = p.tokens[t];
    const Range places = places_in(token, rows);
    for (int64_t i = places.begin; i < places.end; i += kMaxTaskRows) {
      const int64_t n = std::min(kMaxTaskRows, places.end - i);
      for (int64_t j = 0; j < n; ++j) {
        const int64_t row = token.list == nullptr ? token.first + i + j : token.list[i + j];
        d[j] = p.d + row * p.dim;
      }
      kernels.add_terms(d, n, token.coefficients + i * p.stride, p.stride, p.terms[t],
                        channels.begin, channels.end, panel);
    }
  }
}

}  // namespace

void add_key_gradients(device::ExecContext& ctx, const KeyGradientParams& p) {
  Range all = {0, 0};
  int64_t longest = 0;
  int64_t max_count = 0;
  bool listed = false;
  for (int64_t t = 0; t < p.num_tokens; ++t) {
    const Range rows = rows_of(p.tokens[t]);
    if (rows.begin == rows.end) continue;
    all = longest == 0 ? rows : Range{std::min(all.begin, rows.begin), std::max(all.end, rows.end)};
    longest = std::max(longest, p.tokens[t].n);
    max_count = std::max(max_count, p.terms[t].count);
    listed = listed || p.tokens[t].list != nullptr;
  }
  if (longest == 0) return;
  const int64_t num_rows = all.end - all.begin;
  const int64_t channel_tasks = (p.dim + kTaskChannels - 1) / kTaskChannels;
  const int64_t tasks =
      std::max<int64_t>(1, kTasksPerThread * ctx.pool->num_threads() / channel_tasks);
  int64_t task_rows = std::clamp((num_rows + tasks - 1) / tasks, kMinTaskRows, kMaxTaskRows);
  if (listed) task_rows = std::max(task_rows, num_rows * kMinTaskKeys / longest);
  const int64_t row_tasks = (num_rows + task_rows - 1) / task_rows;
  const BackwardKernels& kernels = backward_kernels(ctx.isa);
  const device::ArenaScope scope(*ctx.arena);
  const int64_t panel_floats = (KeyTerms::kMaxRuns * max_count + 2) * kTaskChannels;
  float* panels = ctx.arena->allocate<float>(ctx.pool->num_threads() * panel_floats);
  ctx.pool->run(row_tasks * channel_tasks, [&](int64_t task, int worker) {
    const int64_t row = all.begin + task / channel_tasks * task_rows;
    const int64_t channel = task % channel_tasks * kTaskChannels;
    add_to_rows(p, kernels, {row, std::min(all.end, row + task_rows)},
                {channel, std::min(p.dim, channel + kTaskChannels)},
                panels + worker * panel_floats);
  });
}

}  // namespace cachalot::ops
