// What a step's results are called in metrics.jsonl.
#pragma once

#include "device/exec_context.h"
#include "train/metrics.h"
#include "train/train_config.h"
#include "train/trainer.h"

namespace cachalot::train {

// GFLOP/s of log.peak_gflops, or measured (fp32 products, device/machine_limits.h) where that is 0.
double machine_peak_gflops(const device::ExecContext& ctx, const TrainConfig& config);

// flops_per_token: training_flops_per_token(); peak_gflops of the machine.
MetricValues step_metrics(const StepResult& result, double seconds, double flops_per_token,
                          double peak_gflops);

}  // namespace cachalot::train
