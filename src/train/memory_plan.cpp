#include "train/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "formats/accounting.h"
#include "train/training_flops.h"

namespace cachalot::train {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr double kUsualShareOfPeak = 0.3;  // what a run reaches, for the time estimate

// As many whole packs as it may hold, at least one, of those that a step has.
int64_t micro_batch_positions(const TrainConfig& config, int64_t sequence_length,
                              int64_t step_tokens) {
  const int64_t packs = std::max<int64_t>(1, config.micro_batch_tokens / sequence_length);
  return std::min(packs * sequence_length, step_tokens);
}

int64_t bytes_per_value(PreparedFormat format) {
  switch (format) {
    case PreparedFormat::f32: return 4;
    case PreparedFormat::bf16: return 2;
    case PreparedFormat::fp8:
    case PreparedFormat::fp8_of_fp4: return 1;
  }
  return 0;
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes * 1e-9);
  return fmt::format("{:.1f} MB", bytes * 1e-6);
}
std::string bytes_text(int64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

}  // namespace

double MemoryPlan::total_bytes() const {
  return static_cast<double>(master_bytes + gradient_bytes + moment_bytes + packed_bytes) +
         pass.total();
}

double MemoryPlan::seconds(double peak_gflops) const {
  return flops / (peak_gflops * 1e9 * kUsualShareOfPeak);
}

std::string MemoryPlan::to_text(double peak_gflops) const {
  std::string out;
  const auto row = [&](std::string_view name, const std::string& value) {
    out += fmt::format("# {:<24}{}\n", name, value);
  };
  row("parameters", fmt::format("{} ({} active)", parameters, active_parameters));
  row("masters", bytes_text(master_bytes));
  row("gradients", bytes_text(gradient_bytes));
  row("moments", bytes_text(moment_bytes));
  row("packed weights", bytes_text(packed_bytes));
  row("a pass at its peak",
      fmt::format("{} for {} positions", bytes_text(pass.total()), micro_batch_tokens));
  row("  activations", bytes_text(pass.kept));
  row("  made again", bytes_text(pass.made_again));
  row("  gradients of them", bytes_text(pass.gradients));
  row("  logits", bytes_text(pass.logits));
  row("memory in all", bytes_text(total_bytes()));
  row("a checkpoint", bytes_text(checkpoint_bytes));
  row("steps", fmt::format("{} ({} tokens)", num_steps, total_tokens));
  row("operations", fmt::format("{:.3g} FLOP", flops));
  row("time", fmt::format("{:.3g} h at {:.0f} % of {:.4g} GFLOP/s", seconds(peak_gflops) / 3600,
                          100 * kUsualShareOfPeak, peak_gflops));
  return out;
}

int64_t equal_steps(const optim::TrainingSchedule& schedule, int64_t seen) {
  const int64_t length = optim::sequence_length(schedule.sequence, seen);
  const auto tokens_at = [&](int64_t place) {
    return optim::step_tokens(schedule.batch, length, place);
  };
  const int64_t tokens = tokens_at(seen);
  CACHALOT_CHECK(tokens > 0);
  // The last step that the budget has room for, and the first of the next stage.
  int64_t end = schedule.batch.total_tokens - tokens + 1;
  for (const optim::SequenceStage& stage : schedule.sequence) {
    if (stage.from_tokens > seen && stage.sequence_length != length)
      end = std::min(end, stage.from_tokens);
  }
  const int64_t most = (end - seen + tokens - 1) / tokens;
  if (seen >= schedule.batch.ramp_tokens) return most;
  // Steps grow with the tokens seen: the first that is larger, at twice the distance each time and
  // then between the last two.
  int64_t equal = 1, larger = 2;
  while (larger - 1 < most && tokens_at(seen + (larger - 1) * tokens) == tokens) {
    equal = larger;
    larger = larger > most / 2 ? most + 1 : 2 * larger;
  }
  while (larger - equal > 1) {
    const int64_t middle = equal + (larger - equal) / 2;
    (tokens_at(seen + (middle - 1) * tokens) == tokens ? equal : larger) = middle;
  }
  return equal;
}

Result<MemoryPlan> memory_plan(const TrainConfig& config) {
  CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig model, model_config(config));
  const std::vector<formats::TensorInfo> inventory = formats::tensor_inventory(model);
  const formats::ParameterCount count = formats::count_parameters(model, inventory);
  MemoryPlan plan;
  plan.parameters = count.main + count.mtp;
  plan.active_parameters = count.active;
  optim::GroupingOptions grouping = grouping_of(config, model);
  CACHALOT_ASSIGN_OR_RETURN(const TrainingPrecision precision,
                            parse_training_precision(config.precision, config.qat));
  for (const formats::TensorInfo& info : inventory) {
    if (info.tensor_class == formats::TensorClass::table) continue;
    const int64_t bytes = tensor::num_elements(info.shape) * kFloat;
    CACHALOT_ASSIGN_OR_RETURN(const optim::ParameterRule rule,
                              optim::parameter_rule(info.name, info.shape, grouping));
    const bool shared = info.component == formats::Component::embedding ||
                        info.component == formats::Component::head;
    plan.master_bytes += bytes;
    plan.gradient_bytes += (shared ? 2 : 1) * bytes;
    if (rule.group == optim::ParameterGroup::muon) plan.moment_bytes += bytes;
    if (rule.group == optim::ParameterGroup::adamw ||
        rule.group == optim::ParameterGroup::adamw_decay)
      plan.moment_bytes += 2 * bytes;
    if (info.shape.size() == 2 && info.component != formats::Component::embedding)
      plan.packed_bytes += 2 * bytes / kFloat * bytes_per_value(prepared_format(precision, info));
  }
  const optim::TrainingSchedule& schedule = config.schedule;
  plan.checkpoint_bytes = plan.master_bytes + plan.moment_bytes;
  int64_t length = 0;
  double flops_per_token = 0;
  while (plan.total_tokens < schedule.batch.total_tokens) {
    const optim::TrainingPoint point =
        optim::training_point(schedule, plan.num_steps, plan.total_tokens);
    const int64_t tokens = equal_steps(schedule, plan.total_tokens) * point.step_tokens;
    if (std::exchange(length, point.sequence_length) != point.sequence_length)
      flops_per_token = training_flops_per_token(model, length);
    plan.flops += static_cast<double>(tokens) * flops_per_token;
    plan.total_tokens += tokens;
    plan.num_steps += tokens / point.step_tokens;
    plan.micro_batch_tokens =
        std::max(plan.micro_batch_tokens, micro_batch_positions(config, length, point.step_tokens));
  }
  CACHALOT_ASSIGN_OR_RETURN(const model::RecomputePlan recompute, recompute_plan(config));
  plan.pass = pass_memory(model, precision, recompute, plan.micro_batch_tokens);
  return plan;
}

}  // namespace cachalot::train
