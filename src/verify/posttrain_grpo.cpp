#include "verify/posttrain_grpo.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "post/advantages.h"
#include "post/grpo_loss.h"
#include "verify/closeness.h"

namespace cachalot::verify {
namespace {

namespace fs = std::filesystem;

constexpr double kFormula = 1e-10;
constexpr double kLogprob = 2e-5;
constexpr double kRatio = 2e-5;  // relative
constexpr double kKl = 1e-4;
constexpr double kCoefficient = 2e-5;  // of the largest
constexpr double kDivergence = 1e-5;
constexpr double kLoss = 1e-6;  // where the weights of all tokens are 1 together; README.md
constexpr GradientBounds kGradients = {2e-4, 2e-3, 2e-5};

const std::map<std::string, post::AdvantageRule> kAdvantageRules = {
    {"centred", {post::Deviation::none, 0}},
    {"std_population", {post::Deviation::population, 0}},
    {"std_sample_1e-4", {post::Deviation::sample, 1e-4}},
    {"std_sample_1e-6", {post::Deviation::sample, 1e-6}},
};
const std::map<std::string, post::Normalisation> kNormalisations = {
    {"seq-mean-token-mean", post::Normalisation::sequence_mean_token_mean},
    {"token-mean", post::Normalisation::token_mean},
    {"constant", post::Normalisation::constant},
    {"seq-mean-token-sum", post::Normalisation::sequence_mean_token_sum},
};
const std::map<std::string, post::KlEstimator> kEstimators = {
    {"unbiased", post::KlEstimator::unbiased}, {"k3", post::KlEstimator::plain}};

template <typename T>
Result<T> named(const std::map<std::string, T>& choices, const std::string& name,
                const std::string& what) {
  const auto found = choices.find(name);
  if (found != choices.end()) return found->second;
  return unsupported(fmt::format("{}: no such choice: {}", what, name));
}

// The sum of all tokens' weights in the loss: what it comes to where every r A is 1.
double sum_of_weights(const post::GrpoRows& rows, const post::MiniBatch& batch,
                      post::GrpoOptions options) {
  const std::vector<double> ones(static_cast<size_t>(rows.num_sequences()), 1);
  options.beta = 0;
  return -post::grpo({rows.offsets, ones, rows.sampler, rows.sampler}, rows.sampler, batch, options)
              .loss;
}

struct Rollout {
  GoldenTensors file;
  PosttrainSequences sequences;
  std::vector<int64_t> groups;
  std::vector<double> rewards, logprob, reference, logprob_full, reference_full;
  std::vector<uint8_t> allowed;  // empty: all
  int64_t allowed_stride = 0;
  model::Choices choices;

  Rollout(GoldenTensors opened, const formats::ModelConfig& config)
      : file(std::move(opened)), sequences(file, config) {
    const int64_t n = sequences.num_sequences(), tokens = sequences.num_response_tokens();
    groups = file.integers("group", n);
    rewards = file.numbers("rewards", n);
    logprob = file.numbers("logprob", tokens);
    reference = file.numbers("ref_logprob", tokens);
    logprob_full = file.numbers("logprob_full", tokens);
    reference_full = file.numbers("ref_logprob_full", tokens);
    read_allowed(config);
    read_choices(config);
  }

 private:
  void read_allowed(const formats::ModelConfig& config) {
    if (!file.has("allowed")) return;
    allowed_stride = (config.vocab_size + 7) / 8;
    const int64_t tokens = sequences.num_response_tokens();
    for (const int64_t byte : file.integers("allowed", tokens * allowed_stride))
      allowed.push_back(static_cast<uint8_t>(byte));
    for (int64_t t = 0; t < tokens && file.status().ok(); ++t) {
      const int32_t id = sequences.responses()[t];
      if ((allowed[t * allowed_stride + id / 8] >> id % 8 & 1) == 0)
        file.fail("allowed", fmt::format("token {} of response token {}", id, t), "not in the set");
    }
  }

  // Chosen experts by layer, ascending within a row; their order in the file has no meaning.
  void read_choices(const formats::ModelConfig& config) {
    const int64_t k = config.num_experts_per_tok, rows = sequences.num_tokens();
    const int64_t first = config.num_hash_layers, layers = config.num_hidden_layers - first;
    const std::vector<int64_t> ids = file.integers("experts", rows * layers * k);
    choices.experts.resize(static_cast<size_t>(config.num_all_layers()));
    for (int64_t row = 0; row < rows && file.status().ok(); ++row) {
      for (int64_t layer = 0; layer < layers; ++layer) {
        std::vector<int32_t>& to = choices.experts[first + layer];
        for (int64_t i = 0; i < k; ++i) {
          const int64_t id = ids[(row * layers + layer) * k + i];
          if (id < 0 || id >= config.n_routed_experts)
            file.fail("experts", fmt::format("ids below {}", config.n_routed_experts),
                      std::to_string(id));
          to.push_back(static_cast<int32_t>(id));
        }
        std::sort(to.end() - k, to.end());
        if (std::adjacent_find(to.end() - k, to.end()) != to.end())
          file.fail("experts", "different experts", fmt::format("one twice in row {}", row));
      }
    }
  }
};

class GrpoVerifier {
 public:
  GrpoVerifier(std::string directory, PosttrainModel& model, GoldenReport& report)
      : directory_(std::move(directory)), model_(model), report_(report) {}

  Status run() {
    CACHALOT_ASSIGN_OR_RETURN(const GoldenJson advantages,
                              GoldenJson::open(path("advantages.json")));
    for (const std::string& name : advantages.keys()) {
      CACHALOT_ASSIGN_OR_RETURN(GoldenTensors file,
                                GoldenTensors::open(path("rollout-" + name + ".safetensors")));
      const auto& rollout = rollouts_[name] =
          std::make_unique<Rollout>(std::move(file), model_.config());
      CACHALOT_RETURN_IF_ERROR(rollout->file.status());
      CACHALOT_RETURN_IF_ERROR(verify_advantages(name, advantages[name]["advantages"]));
    }
    CACHALOT_RETURN_IF_ERROR(advantages.status());
    CACHALOT_ASSIGN_OR_RETURN(const GoldenJson settings, GoldenJson::open(path("settings.json")));
    CACHALOT_ASSIGN_OR_RETURN(const GoldenJson digests, GoldenJson::open(path("digest.json")));
    CACHALOT_ASSIGN_OR_RETURN(GoldenTensors expected,
                              GoldenTensors::open(path("expected.safetensors")));
    for (const GoldenJson& setting : settings["settings"].elements())
      CACHALOT_RETURN_IF_ERROR(verify_setting(setting, digests, expected));
    return settings.status();
  }

 private:
  std::string path(const std::string& name) const { return (fs::path(directory_) / name).string(); }

  Status verify_advantages(const std::string& name, const GoldenJson& golden) {
    const Rollout& rollout = *rollouts_[name];
    for (const std::string& rule_name : golden.keys()) {
      CACHALOT_ASSIGN_OR_RETURN(const post::AdvantageRule rule,
                                named(kAdvantageRules, rule_name, "advantages"));
      // Exact but for the order of a group's sums: some units in the last place.
      Closeness advantages(fmt::format("grpo rollout {}: advantages, {}", name, rule_name), 1e-14,
                           Closeness::Measure::absolute);
      advantages.add(golden[rule_name].numbers(),
                     post::group_advantages(rollout.rewards, rollout.groups, rule));
      CACHALOT_RETURN_IF_ERROR(golden.status());
      advantages.report(report_);
    }
    return {};
  }

  struct Expected {
    std::vector<double> logprob, ratio, kl, objective, coefficient;
  };

  Status verify_setting(const GoldenJson& setting, const GoldenJson& digests,
                        GoldenTensors& tensors) {
    const std::string name = setting["name"].text();
    const std::string rollout_name = setting["rollout"].text();
    const auto found = rollouts_.find(rollout_name);
    CACHALOT_RETURN_IF_ERROR(setting.status());
    if (found == rollouts_.end())
      return invalid_argument(fmt::format("{}: no such rollout: {}", name, rollout_name));
    Rollout& rollout = *found->second;
    const int64_t tokens = rollout.sequences.num_response_tokens();
    post::GrpoOptions options;
    options.epsilon = setting["epsilon"].number();
    options.beta = setting["beta"].number();
    if (setting.has("delta")) options.delta = setting["delta"].number();
    options.constant = setting["constant"].number();
    CACHALOT_ASSIGN_OR_RETURN(options.kl, named(kEstimators, setting["kl"].text(), name));
    CACHALOT_ASSIGN_OR_RETURN(options.normalisation,
                              named(kNormalisations, setting["normalisation"].text(), name));
    CACHALOT_ASSIGN_OR_RETURN(const post::AdvantageRule rule,
                              named(kAdvantageRules, setting["advantage"].text(), name));
    const bool keep_mask = setting["keep_mask"].boolean();
    const std::vector<double> advantages =
        post::group_advantages(rollout.rewards, rollout.groups, rule);
    const post::GrpoRows rows{rollout.sequences.response_offsets(), advantages,
                              keep_mask ? rollout.logprob : rollout.logprob_full,
                              keep_mask ? rollout.reference : rollout.reference_full};
    const Expected expected{
        tensors.numbers(name + ".logprob", tokens), tensors.numbers(name + ".ratio", tokens),
        tensors.numbers(name + ".kl", tokens), tensors.numbers(name + ".objective", tokens),
        tensors.numbers(name + ".coefficient", tokens)};
    CACHALOT_RETURN_IF_ERROR(tensors.status());
    const post::MiniBatch batch{rows.num_sequences(), tokens};
    CACHALOT_RETURN_IF_ERROR(
        verify_formula("grpo " + name, setting["expected"], expected, rows, batch, options));

    const post::AllowedTokens allowed =
        keep_mask && !rollout.allowed.empty()
            ? post::AllowedTokens{rollout.allowed.data(), rollout.allowed_stride}
            : post::AllowedTokens{};
    post::GrpoLoss loss(rows, batch, options, allowed);
    model::TrainingTerms terms;
    if (setting["keep_routing"].boolean()) terms.replay = &rollout.choices;
    CACHALOT_RETURN_IF_ERROR(setting.status());
    model_.gradients(rollout.sequences.samples(), loss, &terms);
    const double loss_bound = kLoss * std::max(1.0, sum_of_weights(rows, batch, options));
    CACHALOT_RETURN_IF_ERROR(
        verify_model("grpo " + name, setting["expected"], expected, loss, loss_bound));
    std::optional<GoldenTensors> whole;
    const std::string whole_path = path("grads-" + name + ".safetensors");
    if (fs::exists(whole_path)) {
      CACHALOT_ASSIGN_OR_RETURN(whole, GoldenTensors::open(whole_path));
    }
    return verify_gradients("grpo " + name, model_.parameters, digests[name],
                            whole ? &*whole : nullptr, kGradients, report_);
  }

  // From the expected log-probabilities.
  Status verify_formula(const std::string& name, const GoldenJson& golden, const Expected& expected,
                        const post::GrpoRows& rows, const post::MiniBatch& batch,
                        post::GrpoOptions options) {
    const post::GrpoValues values = post::grpo(rows, expected.logprob, batch, options);
    Closeness formula(name + ": formulas", kFormula, Closeness::Measure::absolute);
    formula.add(golden["loss"].number(), values.loss);
    formula.add(golden["policy_loss"].number(), values.policy_loss);
    formula.add(golden["kl_mean"].number(), values.kl_mean);
    formula.add(golden["sequence_divergence"].numbers(), values.divergence);
    formula.add(expected.ratio, values.ratio);
    formula.add(expected.kl, values.kl);
    formula.add(expected.objective, values.objective);
    formula.add(expected.coefficient, values.coefficient);
    const GoldenJson losses = golden["all_normalisations"];
    for (const std::string& other : losses.keys()) {
      CACHALOT_ASSIGN_OR_RETURN(options.normalisation, named(kNormalisations, other, name));
      formula.add(losses[other].number(), post::grpo(rows, expected.logprob, batch, options).loss);
    }
    CACHALOT_RETURN_IF_ERROR(golden.status());
    formula.report(report_);
    return {};
  }

  Status verify_model(const std::string& name, const GoldenJson& golden, const Expected& expected,
                      const post::GrpoLoss& loss, double loss_bound) {
    const post::GrpoValues& values = loss.values();
    Closeness logprob(name + ": log-probabilities", kLogprob, Closeness::Measure::absolute);
    logprob.add(expected.logprob, loss.logprobs());
    Closeness ratio(name + ": ratios", kRatio, Closeness::Measure::relative);
    ratio.add(expected.ratio, values.ratio);
    Closeness kl(name + ": KL", kKl, Closeness::Measure::absolute);
    kl.add(expected.kl, values.kl);
    double largest = 0;
    for (const double c : expected.coefficient) largest = std::max(largest, std::abs(c));
    Closeness coefficient(name + ": coefficients", kCoefficient * largest,
                          Closeness::Measure::absolute);
    coefficient.add(expected.coefficient, values.coefficient);
    Closeness divergence(name + ": divergence of a sequence", kDivergence,
                         Closeness::Measure::absolute);
    divergence.add(golden["sequence_divergence"].numbers(), values.divergence);
    Closeness mask(name + ": masks and number of clipped tokens", 0, Closeness::Measure::absolute);
    mask.add(golden["sequence_mask"].numbers(),
             std::vector<double>(values.kept.begin(), values.kept.end()));
    mask.add(golden["clipped_tokens"].number(), static_cast<double>(values.num_clipped));
    Closeness total(name + ": loss", loss_bound, Closeness::Measure::absolute);
    total.add(golden["loss"].number(), values.loss);
    CACHALOT_RETURN_IF_ERROR(golden.status());
    for (const Closeness* check : {&logprob, &ratio, &kl, &coefficient, &divergence, &mask, &total})
      check->report(report_);
    return {};
  }

  std::string directory_;
  PosttrainModel& model_;
  GoldenReport& report_;
  std::map<std::string, std::unique_ptr<Rollout>> rollouts_;
};

}  // namespace

Status verify_grpo(const std::string& directory, PosttrainModel& model, GoldenReport& report) {
  return GrpoVerifier(directory, model, report).run();
}

}  // namespace cachalot::verify
