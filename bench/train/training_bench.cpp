// training_bench [--json] [--threads=N] [--isa=NAME] [--seconds=S] [--cpu-clock]
// Where a training step's time goes, and what its parts cost: the nano model over 4 sequences of
// 512 tokens a step.
//   phases     forward, anticipatory routing's pass, forward and backward, optimizer, packing of
//              weights: time, and FLOP/s as a share of the f32 peak measured in the same run
//              (FLOPs: train/training_flops.h; a third of them forward; Newton-Schulz by
//              reference/training 3.3)
//   overheads  a whole step with one thing changed beside the step as it is, run just before it:
//              the median of three ratios a round
//   order      ops whose sums over tokens have one order beside themselves with the tokens cut
//              among threads (order_cases.h): time of a step's calls, and what a step could save at
//              most where cutting is faster
// Cases take turns, so that a machine's mood meets all of them. --seconds is the number of rounds.
// Anticipatory routing's cost is bounded by what the same run's phases say of a forward pass
// (reference/training A5: a third of forward and backward, done naively).
// Source  reference/training 3.3, 6, 7.3 (A5), 10; reference/infrastructure 7.1, 7.2 (C3), 7.4.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/rng.h"
#include "bench_run.h"
#include "device/machine_limits.h"
#include "formats/presets.h"
#include "optim/optimizer.h"
#include "train/initialize.h"
#include "train/order_cases.h"
#include "train/training_flops.h"
#include "train/training_model.h"

namespace {

namespace cc = cachalot;
using cc::bench::BenchOptions;

constexpr int64_t kSequences = 4;
constexpr int64_t kLength = 512;
constexpr int64_t kTokens = kSequences * kLength;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A model, its optimizer and a batch.
class Step {
 public:
  Step(cc::device::ExecContext& ctx, const cc::formats::ModelConfig& config, bool muon,
       cc::train::TrainingPrecision precision)
      : ctx_(ctx), config_(config), parameters_(cc::train::initial_parameters(config, {})) {
    model_ = cc::train::TrainingModel::create(ctx, config, parameters_, precision).value();
    std::vector<cc::optim::OptimizedParameter> optimized;
    for (cc::train::Parameter& p : parameters_.parameters()) {
      optimized.push_back(
          {p.info.name, p.info.shape, p.master.data(), p.grad.empty() ? nullptr : p.grad.data()});
    }
    cc::optim::OptimizerConfig optimizer;
    optimizer.grouping = {config.hc_mult,        config.head_dim,
                          config.index_head_dim, config.num_attention_heads,
                          config.index_n_heads,  config.o_groups};
    optimizer.grouping.muon = muon;
    optimizer_ = std::make_unique<cc::optim::Optimizer>(
        cc::optim::Optimizer::create(std::move(optimized), optimizer).value());
    cc::RngStream rng(1, cc::RngPurpose::data, 0);
    for (int64_t s = 0; s < kSequences; ++s) {
      auto& ids = tokens_.emplace_back();
      for (int64_t i = 0; i < kLength; ++i)
        ids.push_back(
            static_cast<int32_t>(rng.next_u32() % static_cast<uint32_t>(config.vocab_size)));
      auto& next = labels_.emplace_back(ids.begin() + 1, ids.end());
      next.push_back(-1);
    }
    for (int64_t s = 0; s < kSequences; ++s) samples_.push_back({tokens_[s], labels_[s]});
  }

  float indexer = 1;
  // routes by the choices of a forward pass of its own (reference/training 7.1)
  bool anticipate = false;
  cc::model::RecomputePlan recompute;

  void forward() {
    cc::model::TrainingTerms terms;
    model_->losses(ctx_, samples_, kWeights, &terms);
  }
  cc::model::Choices choose() { return model_->choose_experts(ctx_, samples_, false); }
  void gradients() {
    parameters_.clear_grads(ctx_);
    cc::model::TrainingTerms terms;
    cc::model::Choices chosen;
    if (anticipate) {
      chosen = choose();
      terms.replay = &chosen;
    }
    terms.indexer_loss = indexer / kTokens;
    terms.balance_alpha = 1e-4f;
    terms.balance_weight = 1.0f / kSequences;
    terms.recompute = recompute;
    model_->add_gradients(ctx_, samples_, kWeights, &terms);
    parameters_.finish_grads(ctx_);
  }
  void optimize() { optimizer_->step(ctx_, 1e-6); }
  void pack() { CACHALOT_CHECK(model_->refresh(ctx_).ok()); }
  void whole() {
    gradients();
    optimize();
    pack();
  }
  // 10 (4 n^2 m + 2 n^3) of every logical matrix, n its smaller side.
  double newton_schulz_flops() const {
    double flops = 0;
    for (size_t i = 0; i < optimizer_->parameters().size(); ++i) {
      for (const cc::optim::RowRange& cut : optimizer_->audit().rows[i].rule.matrices) {
        const auto rows = static_cast<double>(cut.rows);
        const auto columns = static_cast<double>(optimizer_->parameters()[i].shape[1]);
        const double n = std::min(rows, columns), m = std::max(rows, columns);
        flops += 10 * (4 * n * n * m + 2 * n * n * n);
      }
    }
    return flops;
  }

 private:
  static constexpr cc::train::LossWeights kWeights{1.0f / kTokens, 0.3f / kTokens};
  cc::device::ExecContext& ctx_;
  cc::formats::ModelConfig config_;
  cc::train::ParameterStore parameters_;
  std::unique_ptr<cc::train::TrainingModel> model_;
  std::unique_ptr<cc::optim::Optimizer> optimizer_;
  std::vector<std::vector<int32_t>> tokens_, labels_;
  std::vector<cc::train::Sample> samples_;
};

struct Case {
  std::string name;
  std::function<void()> run;
  double flops = 0;  // 0: not counted
  std::vector<double> seconds = {};
  std::vector<double> ratios = {};  // to the base
};

// base null: phases alone.
void take_turns(const BenchOptions& options, const std::function<void()>& base,
                std::vector<Case>& cases) {
  const int turns = 3 * std::max(1, static_cast<int>(std::lround(options.seconds)));
  for (Case& c : cases) c.run();
  for (int turn = 0; turn < turns; ++turn) {
    for (Case& c : cases) {
      const double base_s = base ? time_once(options, base) : 1;
      c.seconds.push_back(time_once(options, c.run));
      c.ratios.push_back(c.seconds.back() / base_s);
    }
  }
}

void report_order(cc::device::ExecContext& ctx, const BenchOptions& options, double step_s) {
  double saved_s = 0;
  for (cc::bench::OrderedOp& op : cc::bench::make_ordered_ops()) {
    cc::bench::OrderCase order(ctx, std::move(op));
    const int calls = order.op().calls;
    const auto of_a_step = [calls](const std::function<void()>& call) {
      for (int i = 0; i < calls; ++i) call();
    };
    std::vector<Case> ordered = {{order.op().name, [&] { of_a_step([&] { order.ordered(); }); }}};
    take_turns(
        options, [&] { of_a_step([&] { order.cut(); }); }, ordered);
    const double s = median(ordered[0].seconds), ratio = median(ordered[0].ratios);
    saved_s += std::max(0.0, s - s / ratio);
    if (options.json) {
      fmt::print(
          "{{\"order\":\"{}\",\"threads\":{},\"median_s\":{:.6f},\"ratio\":{:.4f},"
          "\"share_of_step\":{:.5f}}}\n",
          ordered[0].name, options.num_threads, s, ratio, s / step_s);
    } else {
      fmt::print("{:<32}{:>7.2f} ms {:>8.3f} of tokens cut among threads {:>5.1f} % of a step\n",
                 ordered[0].name, s * 1e3, ratio, 100 * s / step_s);
    }
  }
  if (options.json)
    fmt::print("{{\"order_costs_at_most\":{:.5f},\"threads\":{}}}\n", saved_s / step_s,
               options.num_threads);
  else
    fmt::print("the order costs at most {:.2f} % of a step\n", 100 * saved_s / step_s);
}

}  // namespace

int main(int argc, char** argv) {
  BenchOptions options;
  for (int i = 1; i < argc; ++i) {
    if (cc::bench::take_option(argv[i], options)) continue;
    fmt::print(stderr,
               "training_bench [--json] [--threads=N] [--isa=NAME] [--seconds=S] [--cpu-clock]\n");
    return 1;
  }
  cc::ThreadPool pool(options.num_threads);
  cc::device::Arena arena;
  cc::device::ExecContext ctx{&pool, &arena, options.isa};
  const cc::formats::ModelConfig config = cc::formats::nano_config();
  cc::formats::ModelConfig plain = config;
  plain.cachalot.residual = {"plain"};
  using cc::train::TrainingPrecision;
  Step base(ctx, config, true, TrainingPrecision::fp32());
  Step adamw(ctx, config, false, TrainingPrecision::fp32());
  Step no_mhc(ctx, plain, true, TrainingPrecision::fp32());
  Step bf16(ctx, config, true, TrainingPrecision::bf16());
  Step fp8(ctx, config, true, TrainingPrecision::fp8());
  Step qat(ctx, config, true, TrainingPrecision::fp4_qat());
  Step no_indexer(ctx, config, true, TrainingPrecision::fp32());
  no_indexer.indexer = 0;
  Step recompute(ctx, config, true, TrainingPrecision::fp32());
  recompute.recompute = cc::model::RecomputePlan::parse("mhc").value();

  Step anticipating(ctx, config, true, TrainingPrecision::fp32());
  anticipating.anticipate = true;

  const double peak = cc::device::measure_f32_peak(pool, options.isa);
  const double flops = kTokens * cc::train::training_flops_per_token(config, kLength);
  std::vector<Case> phases = {
      {"forward", [&] { base.forward(); }, flops / 3},
      {"anticipatory pass", [&] { base.choose(); }},
      {"forward and backward", [&] { base.gradients(); }, flops},
      {"optimizer", [&] { base.optimize(); }, base.newton_schulz_flops()},
      {"packing", [&] { base.pack(); }},
      {"whole step", [&] { base.whole(); }, flops + base.newton_schulz_flops()}};
  take_turns(options, nullptr, phases);
  for (const Case& c : phases) {
    const double s = median(c.seconds);
    if (options.json) {
      fmt::print(
          "{{\"phase\":\"{}\",\"threads\":{},\"median_s\":{:.6f},\"flops\":{:.4g},\"share_of_"
          "peak\":{:.4f}}}\n",
          c.name, options.num_threads, s, c.flops, c.flops / s / peak);
    } else {
      fmt::print("{:<24}{:>9.1f} ms {:>8.1f} GFLOP/s {:>6.1f} % of {:.0f}\n", c.name, s * 1e3,
                 c.flops / s * 1e-9, 100 * c.flops / s / peak, peak * 1e-9);
    }
  }
  std::vector<Case> changes = {{"as it is", [&] { base.whole(); }},
                               {"AdamW only", [&] { adamw.whole(); }},
                               {"plain residual", [&] { no_mhc.whole(); }},
                               {"no indexer loss", [&] { no_indexer.whole(); }},
                               {"anticipatory routing", [&] { anticipating.whole(); }},
                               {"recompute mhc", [&] { recompute.whole(); }},
                               {"bf16", [&] { bf16.whole(); }},
                               {"fp8", [&] { fp8.whole(); }},
                               {"fp8 and qat", [&] { qat.whole(); }}};
  take_turns(
      options, [&] { base.whole(); }, changes);
  for (const Case& c : changes) {
    const double s = median(c.seconds);
    if (options.json) {
      fmt::print(
          "{{\"change\":\"{}\",\"threads\":{},\"median_s\":{:.6f},\"ratio\":{:.4f},\"tokens_per_"
          "s\":{:.0f}}}\n",
          c.name, options.num_threads, s, median(c.ratios), kTokens / s);
    } else {
      fmt::print("{:<24}{:>9.1f} ms {:>8.3f} of the step as it is {:>8.0f} tokens/s\n", c.name,
                 s * 1e3, median(c.ratios), kTokens / s);
    }
  }
  report_order(ctx, options, median(changes.front().seconds));
}
