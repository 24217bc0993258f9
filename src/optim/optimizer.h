// The optimizer of a training run: Muon and AdamW over a list of named fp32 parameters, each with
// the rule of parameter_groups.h.
// Source  reference/training 3, 6.2.
// step()  The global norm of the active parameters' gradients decides the clipping factor; where it
//         is not finite nothing is changed and the report says so. Otherwise every active parameter
//         takes one step with its own count of steps (AdamW's bias correction). A parameter that is
//         not active keeps every bit, of its state too: no decay, no momentum.
// Numerics  A parameter's new bits depend on its own values, gradient and state, the learning rate
//         and the clipping factor; not on threads, instruction set, or the other parameters. The
//         norm adds up parameters in their order.
// Ownership  owns the moments; borrows masters and gradients, whose addresses must stay. Gradients
//            are read only.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "device/exec_context.h"
#include "optim/muon.h"
#include "optim/parameter_groups.h"
#include "tensor/dtype.h"

namespace cachalot::optim {

struct AdamwConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-20;
  double weight_decay = 0.1;  // of the group adamw_decay
};

struct OptimizerConfig {
  MuonConfig muon;
  AdamwConfig adamw;
  GroupingOptions grouping;
  double max_grad_norm = 1;  // 0: no clipping
};

struct OptimizedParameter {
  std::string name;
  std::vector<int64_t> shape;
  float* master;
  const float* grad;  // may be null in the group none only
};

// A piece of the optimizer's state, as a checkpoint stores it: "<parameter>.momentum" (Muon),
// "<parameter>.exp_avg" and "<parameter>.exp_avg_sq" (AdamW) in the parameter's shape, and
// "optimizer.steps" [parameters] I64.
struct StateArray {
  std::string name;
  tensor::DType dtype;
  std::vector<int64_t> shape;
  std::span<std::byte> bytes;  // read to save, written to restore
};

struct StepReport {
  bool skipped = false;  // the gradient norm was not finite
  double grad_norm = 0;  // before clipping
  float grad_scale = 1;
};

// The size of each active parameter's last update, |W_new - (1 - eta lambda) W_old| / eta as a root
// mean square: 0.18 for Muon's matrices. lambda is 0 where the group has no decay.
struct UpdateRms {
  std::string name;
  double rms;
};

class Optimizer {
 public:
  // Errors  invalid_argument: parameter_groups.h's; a config value out of range (key, expected,
  //         found); a gradient that is missing.
  static Result<Optimizer> create(std::vector<OptimizedParameter> parameters,
                                  const OptimizerConfig& config);

  // learning_rate >= 0 (CHECK). update_rms, if given, is filled; it costs a copy of the weights.
  StepReport step(device::ExecContext& ctx, double learning_rate,
                  std::vector<UpdateRms>* update_rms = nullptr);

  // All parameters of a group but none are active at first.
  void set_active(int64_t parameter_idx, bool active);

  const std::vector<OptimizedParameter>& parameters() const { return parameters_; }
  const ParameterAudit& audit() const { return audit_; }
  // Steps that a parameter has taken.
  int64_t num_steps(int64_t parameter_idx) const;

  // In the parameters' order. The spans stay valid as long as the optimizer; restoring is writing
  // all of them.
  std::vector<StateArray> state();
  // After a restore.
  // Errors  data_loss: a count of steps below 0.
  Status check_state() const;

 private:
  Optimizer(std::vector<OptimizedParameter> parameters, ParameterAudit audit,
            const OptimizerConfig& config);
  ParameterGroup group(int64_t idx) const;
  int64_t size(int64_t idx) const;
  double decay(int64_t idx) const;
  void step_muon(device::ExecContext& ctx, const MuonStep& step);
  void step_adamw(device::ExecContext& ctx, const MuonStep& step);

  OptimizerConfig config_;
  std::vector<OptimizedParameter> parameters_;
  ParameterAudit audit_;
  std::vector<std::vector<float>> first_moments_;   // momentum or exp_avg
  std::vector<std::vector<float>> second_moments_;  // AdamW's
  std::vector<int64_t> steps_;
  std::vector<bool> active_;
};

}  // namespace cachalot::optim
