#include "post/rollout_engine.h"

#include "train/served_weights.h"

namespace cachalot::post {
namespace {

// As model::parse_precision() reads it.
std::string precision_name(const train::TrainingPrecision& precision) {
  switch (precision.level) {
    case train::TrainingPrecision::Level::fp32: return "exact";
    case train::TrainingPrecision::Level::bf16: return "bf16";
    case train::TrainingPrecision::Level::fp8: return "official";
  }
  return "";
}

}  // namespace

Result<std::unique_ptr<engine::LoadedModel>> served_model(const formats::ModelConfig& config,
                                                          const train::ParameterStore& parameters,
                                                          train::TrainingPrecision precision,
                                                          int threads) {
  engine::ModelOptions options;
  options.precision = precision_name(precision);
  options.threads = threads;
  return engine::LoadedModel::create(
      config, std::make_unique<train::ServedWeights>(parameters, precision), options);
}

Result<std::unique_ptr<engine::Engine>> make_rollout_engine(const formats::ModelConfig& config,
                                                            const train::ParameterStore& parameters,
                                                            train::TrainingPrecision precision,
                                                            const RolloutEngineOptions& options,
                                                            int64_t version) {
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<engine::LoadedModel> model,
                            served_model(config, parameters, precision, options.threads));
  engine::EngineOptions engine_options;
  engine_options.max_context_tokens = options.max_context_tokens;
  engine_options.cache_bytes = 0;
  engine_options.max_sequences = options.max_sequences;
  engine_options.max_drafts = options.max_drafts;
  engine_options.weights_version = version;
  return engine::Engine::create(std::move(model), engine_options);
}

}  // namespace cachalot::post
