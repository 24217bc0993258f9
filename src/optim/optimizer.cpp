#include "optim/optimizer.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"
#include "ops/optim/adamw.h"
#include "ops/optim/grad_norm.h"

namespace cachalot::optim {
namespace {

Status expected(std::string_view key, std::string_view what, double found) {
  return invalid_argument(fmt::format("{}: expected {}, found {}", key, what, found));
}

bool fraction(double x) { return x >= 0 && x < 1; }
bool positive_or_zero(double x) { return x >= 0 && std::isfinite(x); }

Status validate(const OptimizerConfig& c) {
  if (!fraction(c.muon.momentum)) return expected("muon.momentum", "0 to below 1", c.muon.momentum);
  if (!positive_or_zero(c.muon.weight_decay))
    return expected("muon.weight_decay", "a number from 0 on", c.muon.weight_decay);
  if (!positive_or_zero(c.muon.update_rms))
    return expected("muon.update_rms", "a number from 0 on", c.muon.update_rms);
  if (!fraction(c.adamw.beta1)) return expected("adamw.beta1", "0 to below 1", c.adamw.beta1);
  if (!fraction(c.adamw.beta2)) return expected("adamw.beta2", "0 to below 1", c.adamw.beta2);
  // Below the smallest float it would be 0, and a zero gradient 0 / 0.
  if (!(c.adamw.eps >= 1e-45) || !std::isfinite(c.adamw.eps))
    return expected("adamw.eps", "a positive float", c.adamw.eps);
  if (!positive_or_zero(c.adamw.weight_decay))
    return expected("adamw.weight_decay", "a number from 0 on", c.adamw.weight_decay);
  if (!positive_or_zero(c.max_grad_norm))
    return expected("max_grad_norm", "a number from 0 on", c.max_grad_norm);
  return {};
}

int64_t num_elements(std::span<const int64_t> shape) {
  int64_t size = 1;
  for (const int64_t n : shape) size *= n;
  return size;
}

template <typename T>
StateArray state_array(std::string name, tensor::DType dtype, std::vector<int64_t> shape,
                       std::vector<T>& values) {
  return {std::move(name), dtype, std::move(shape), std::as_writable_bytes(std::span<T>(values))};
}

}  // namespace

Result<Optimizer> Optimizer::create(std::vector<OptimizedParameter> parameters,
                                    const OptimizerConfig& config) {
  CACHALOT_RETURN_IF_ERROR(validate(config));
  std::vector<NamedShape> names;
  for (const OptimizedParameter& p : parameters) names.push_back({p.name, p.shape});
  CACHALOT_ASSIGN_OR_RETURN(ParameterAudit audit, audit_parameters(names, config.grouping));
  for (size_t i = 0; i < parameters.size(); ++i) {
    const bool trained = audit.rows[i].rule.group != ParameterGroup::none;
    if (trained && (parameters[i].master == nullptr || parameters[i].grad == nullptr)) {
      return invalid_argument(
          fmt::format("{}: expected a master and a gradient, found none", parameters[i].name));
    }
  }
  return Optimizer(std::move(parameters), std::move(audit), config);
}

Optimizer::Optimizer(std::vector<OptimizedParameter> parameters, ParameterAudit audit,
                     const OptimizerConfig& config)
    : config_(config), parameters_(std::move(parameters)), audit_(std::move(audit)) {
  const size_t count = parameters_.size();
  first_moments_.resize(count);
  second_moments_.resize(count);
  steps_.resize(count, 0);
  for (size_t i = 0; i < count; ++i) {
    const auto idx = static_cast<int64_t>(i);
    const ParameterRule& rule = audit_.rows[i].rule;
    active_.push_back(rule.group != ParameterGroup::none);
    if (rule.group == ParameterGroup::none) continue;
    first_moments_[i].resize(static_cast<size_t>(size(idx)), 0.0f);
    if (rule.group != ParameterGroup::muon)
      second_moments_[i].resize(static_cast<size_t>(size(idx)), 0.0f);
  }
}

ParameterGroup Optimizer::group(int64_t idx) const {
  return audit_.rows[static_cast<size_t>(idx)].rule.group;
}

int64_t Optimizer::size(int64_t idx) const {
  return num_elements(parameters_[static_cast<size_t>(idx)].shape);
}

double Optimizer::decay(int64_t idx) const {
  switch (group(idx)) {
    case ParameterGroup::muon: return config_.muon.weight_decay;
    case ParameterGroup::adamw_decay: return config_.adamw.weight_decay;
    default: return 0;
  }
}

void Optimizer::set_active(int64_t parameter_idx, bool active) {
  CACHALOT_CHECK(parameter_idx >= 0 && parameter_idx < static_cast<int64_t>(active_.size()));
  active_[static_cast<size_t>(parameter_idx)] =
      active && group(parameter_idx) != ParameterGroup::none;
}

int64_t Optimizer::num_steps(int64_t parameter_idx) const {
  CACHALOT_CHECK(parameter_idx >= 0 && parameter_idx < static_cast<int64_t>(steps_.size()));
  return steps_[static_cast<size_t>(parameter_idx)];
}

void Optimizer::step_muon(device::ExecContext& ctx, const MuonStep& step) {
  std::vector<MuonMatrix> matrices;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!active_[i]) continue;
    for (const RowRange& cut : audit_.rows[i].rule.matrices) {
      const int64_t columns = parameters_[i].shape[1];
      const int64_t offset = cut.first_row * columns;
      matrices.push_back({cut.rows, columns, parameters_[i].master + offset,
                          parameters_[i].grad + offset, first_moments_[i].data() + offset});
    }
  }
  muon_step(ctx, config_.muon, step, matrices);
}

void Optimizer::step_adamw(device::ExecContext& ctx, const MuonStep& step) {
  std::vector<ops::AdamwParams> updates;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto idx = static_cast<int64_t>(i);
    if (!active_[i] || group(idx) == ParameterGroup::muon) continue;
    updates.push_back({.n = size(idx),
                       .g = parameters_[i].grad,
                       .w = parameters_[i].master,
                       .m = first_moments_[i].data(),
                       .v = second_moments_[i].data(),
                       .step = steps_[i],
                       .learning_rate = step.learning_rate,
                       .beta1 = config_.adamw.beta1,
                       .beta2 = config_.adamw.beta2,
                       .eps = config_.adamw.eps,
                       .weight_decay = decay(idx),
                       .grad_scale = step.grad_scale});
  }
  ops::adamw(ctx, updates);
}

StepReport Optimizer::step(device::ExecContext& ctx, double learning_rate,
                           std::vector<UpdateRms>* update_rms) {
  CACHALOT_CHECK(learning_rate >= 0 && std::isfinite(learning_rate));
  std::vector<std::span<const float>> grads;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (active_[i])
      grads.emplace_back(parameters_[i].grad, static_cast<size_t>(size(static_cast<int64_t>(i))));
  }
  StepReport report;
  report.grad_norm = ops::global_norm(ctx, grads);
  if (update_rms != nullptr) update_rms->clear();
  if (!std::isfinite(report.grad_norm)) {
    report.skipped = true;
    return report;
  }
  report.grad_scale = ops::clip_factor(report.grad_norm, config_.max_grad_norm);

  std::vector<std::vector<float>> before(update_rms != nullptr ? parameters_.size() : 0);
  for (size_t i = 0; i < before.size(); ++i) {
    const float* master = parameters_[i].master;
    if (active_[i]) before[i].assign(master, master + size(static_cast<int64_t>(i)));
  }
  const MuonStep step{learning_rate, report.grad_scale};
  for (size_t i = 0; i < parameters_.size(); ++i) steps_[i] += active_[i] ? 1 : 0;
  step_muon(ctx, step);
  step_adamw(ctx, step);

  for (size_t i = 0; i < before.size(); ++i) {
    if (!active_[i]) continue;
    const double kept = static_cast<float>(1 - learning_rate * decay(static_cast<int64_t>(i)));
    double sum = 0;
    for (size_t j = 0; j < before[i].size(); ++j) {
      const double change = parameters_[i].master[j] - kept * before[i][j];
      sum += change * change;
    }
    const double mean = before[i].empty() ? 0 : sum / static_cast<double>(before[i].size());
    update_rms->push_back(
        {parameters_[i].name, learning_rate > 0 ? std::sqrt(mean) / learning_rate : 0});
  }
  return report;
}

std::vector<StateArray> Optimizer::state() {
  std::vector<StateArray> arrays;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const OptimizedParameter& p = parameters_[i];
    const ParameterGroup g = group(static_cast<int64_t>(i));
    if (g == ParameterGroup::none) continue;
    const bool muon = g == ParameterGroup::muon;
    arrays.push_back(state_array(p.name + (muon ? ".momentum" : ".exp_avg"), tensor::DType::f32,
                                 p.shape, first_moments_[i]));
    if (!muon) {
      arrays.push_back(
          state_array(p.name + ".exp_avg_sq", tensor::DType::f32, p.shape, second_moments_[i]));
    }
  }
  arrays.push_back(state_array("optimizer.steps", tensor::DType::i64,
                               {static_cast<int64_t>(steps_.size())}, steps_));
  return arrays;
}

Status Optimizer::check_state() const {
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (steps_[i] < 0) {
      return data_loss(fmt::format("optimizer.steps, {}: expected 0 or more, found {}",
                                   parameters_[i].name, steps_[i]));
    }
  }
  return {};
}

}  // namespace cachalot::optim
