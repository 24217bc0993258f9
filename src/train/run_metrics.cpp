#include "train/run_metrics.h"

#include <algorithm>

#include "device/machine_limits.h"

namespace cachalot::train {

double machine_peak_gflops(const device::ExecContext& ctx, const TrainConfig& config) {
  return config.log.peak_gflops > 0 ? config.log.peak_gflops
                                    : device::measure_f32_peak(*ctx.pool, ctx.isa) * 1e-9;
}

MetricValues step_metrics(const StepResult& r, double seconds, double flops_per_token,
                          double peak_gflops) {
  MetricValues out = {
      {"loss/lm", r.lm_loss},
      {"loss/mtp", r.mtp_loss},
      {"loss/balance", r.balance_loss},
      {"loss/indexer_kl", r.indexer_kl},
      {"optimizer/learning_rate", r.point.learning_rate},
      {"optimizer/grad_norm", r.optimizer.grad_norm},
      {"optimizer/skipped", r.optimizer.skipped ? 1.0 : 0.0},
      {"schedule/mtp_weight", r.point.mtp_loss_weight},
      {"schedule/sequence_length", static_cast<double>(r.point.sequence_length)},
      {"schedule/attention_stage", static_cast<double>(r.point.attention)},
      {"schedule/anticipated", r.anticipated ? 1.0 : 0.0},
      {"load/max_over_mean", r.max_load},
      {"activation/max_stream", r.max_activation},
      {"clamp/gate_above", static_cast<double>(r.clamped.gate_above)},
      {"clamp/up_above", static_cast<double>(r.clamped.up_above)},
      {"clamp/up_below", static_cast<double>(r.clamped.up_below)},
      {"data/tokens", static_cast<double>(r.num_tokens)},
  };
  // Without a target there is no loss; 0 would be the best of all.
  if (r.num_targets == 0) out.erase(out.begin(), out.begin() + 2);
  if (r.recast.blocks > 0) {
    out.emplace_back("qat/blocks_over_limit", static_cast<double>(r.recast.blocks_over_limit));
    out.emplace_back("qat/inexact_blocks", static_cast<double>(r.recast.inexact_blocks));
    out.emplace_back("qat/max_exponent_spread", static_cast<double>(r.recast.max_spread));
  }
  if (!r.update_rms.empty()) {
    double least = r.update_rms[0].rms, most = least, sum = 0;
    for (const optim::UpdateRms& update : r.update_rms) {
      least = std::min(least, update.rms);
      most = std::max(most, update.rms);
      sum += update.rms;
      out.emplace_back("update_rms/" + update.name, update.rms);
    }
    out.emplace_back("update_rms_min", least);
    out.emplace_back("update_rms_max", most);
    out.emplace_back("update_rms_mean", sum / static_cast<double>(r.update_rms.size()));
  }
  const double tokens_per_s = seconds > 0 ? static_cast<double>(r.num_tokens) / seconds : 0;
  out.emplace_back("time/seconds", seconds);
  out.emplace_back("throughput/tokens_per_s", tokens_per_s);
  out.emplace_back("throughput/gflops", tokens_per_s * flops_per_token * 1e-9);
  out.emplace_back("throughput/share_of_peak", tokens_per_s * flops_per_token * 1e-9 / peak_gflops);
  return out;
}

}  // namespace cachalot::train
