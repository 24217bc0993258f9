// Many arrays as one run of the pool: every wait for its threads costs microseconds, far more on a
// machine that others use, and a model has hundreds of parameters.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device/exec_context.h"

namespace cachalot::ops {

// fn(array, begin, end) over all elements of arrays 0 ... num_arrays - 1, of size(array) each, in
// tasks of up to `block` elements.
template <typename Size, typename Fn>
void for_array_blocks(device::ExecContext& ctx, int64_t num_arrays, int64_t block, Size&& size,
                      Fn&& fn) {
  device::ArenaScope scope(*ctx.arena);
  auto* first_task = ctx.arena->allocate<int64_t>(num_arrays + 1);
  first_task[0] = 0;
  for (int64_t i = 0; i < num_arrays; ++i)
    first_task[i + 1] = first_task[i] + (size(i) + block - 1) / block;
  ctx.pool->run(first_task[num_arrays], [&](int64_t task, int) {
    const int64_t i = std::upper_bound(first_task, first_task + num_arrays, task) - first_task - 1;
    const int64_t begin = (task - first_task[i]) * block;
    fn(i, begin, std::min(size(i), begin + block));
  });
}

}  // namespace cachalot::ops
