// What a step's results are called in metrics.jsonl.
#pragma once

#include "train/metrics.h"
#include "train/train_config.h"
#include "train/trainer.h"

namespace cachalot::train {

// flops_per_token: training_flops_per_token(); peak_gflops of the machine, 0: no share of it.
MetricValues step_metrics(const StepResult& result, double seconds, double flops_per_token,
                          double peak_gflops);

}  // namespace cachalot::train
