// Whole runs of reinforcement learning on a tiny model.
#pragma once

#include <string>
#include <vector>

#include "post/rl_run.h"
#include "task_run_testing.h"

namespace cachalot::post::testing {

class RlRunTest : public TaskRunTest {
 protected:
  Result<TaskRunSummary> run(const std::string& name, const std::vector<std::string>& more,
                             TaskRunObserver& observer,
                             const TaskRunRequest& request = {}) override {
    const std::vector<std::string> files = {test_data("post/tiny.toml")};
    CACHALOT_ASSIGN_OR_RETURN(const RlConfig config,
                              read_rl_config(files, assignments("rl", name, more)));
    ThreadPool pool(2);
    device::Arena arena;
    device::ExecContext ctx{&pool, &arena, device::machine_isa()};
    return run_rl(ctx, config, request, observer);
  }
};

inline double mean(const std::vector<double>& values, size_t first, size_t count) {
  double sum = 0;
  for (size_t i = first; i < first + count; ++i) sum += values[i];
  return sum / static_cast<double>(count);
}

}  // namespace cachalot::post::testing
