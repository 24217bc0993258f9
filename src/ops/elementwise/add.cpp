#include "ops/elementwise/add.h"

#include <algorithm>

#include "numeric/formats.h"

namespace cachalot::ops {
namespace {

constexpr int64_t kTaskValues = 1 << 14;

}  // namespace

void add(device::ExecContext& ctx, float* x, const float* y, int64_t n, bool round_x) {
  ctx.pool->run((n + kTaskValues - 1) / kTaskValues, [&](int64_t task, int) {
    const int64_t end = std::min(n, (task + 1) * kTaskValues);
    for (int64_t i = task * kTaskValues; i < end; ++i) {
      const float sum = x[i] + y[i];
      x[i] = round_x ? numeric::round_to_bf16(sum) : sum;
    }
  });
}

}  // namespace cachalot::ops
