#include "post/rl_config.h"

namespace cachalot::post {
namespace {

constexpr double kBig = 1e30;

void read_keys(ConfigTable& t, RlConfig& c) {
  t.integer("reference_every_steps", &c.reference_every_steps, 0, int64_t{1} << 40);
  t.boolean("keep_routing", &c.keep_routing);
  t.boolean("keep_sampling_mask", &c.keep_sampling_mask);
  t.boolean("shuffle", &c.shuffle);
  t.real("epsilon", &c.grpo.epsilon, 0, kBig);
  t.real("beta", &c.grpo.beta, 0, kBig);
  double delta = 0;
  t.real("delta", &delta, 0, kBig);
  if (t.has("delta")) c.grpo.delta = delta;
  std::string kl = "unbiased", normalisation = "sequence_mean_token_mean", deviation = "none";
  t.choice("kl", &kl, {"unbiased", "plain"});
  t.choice("normalisation", &normalisation,
           {"sequence_mean_token_mean", "token_mean", "constant", "sequence_mean_token_sum"});
  t.real("constant", &c.grpo.constant, 1e-9, kBig);
  t.choice("deviation", &deviation, {"none", "population", "sample"});
  t.real("deviation_added", &c.advantage.added, 0, 1);
  c.grpo.kl = kl == "plain" ? KlEstimator::plain : KlEstimator::unbiased;
  c.grpo.normalisation = normalisation == "token_mean" ? Normalisation::token_mean
                         : normalisation == "constant" ? Normalisation::constant
                         : normalisation == "sequence_mean_token_sum"
                             ? Normalisation::sequence_mean_token_sum
                             : Normalisation::sequence_mean_token_mean;
  c.advantage.deviation = deviation == "population" ? Deviation::population
                          : deviation == "sample"   ? Deviation::sample
                                                    : Deviation::none;
}

}  // namespace

Result<RlConfig> read_rl_config(std::span<const std::string> files,
                                std::span<const std::string> assignments) {
  RlConfig config;
  CACHALOT_RETURN_IF_ERROR(read_task_run_config(
      files, assignments, "rl", [&](ConfigTable& table) { read_keys(table, config); },
      &config.run));
  return config;
}

}  // namespace cachalot::post
