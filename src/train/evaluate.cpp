#include "train/evaluate.h"

#include <algorithm>
#include <numbers>

#include "train/global_batch.h"

namespace cachalot::train {

Result<Evaluation> evaluate(device::ExecContext& ctx, TrainingModel& model,
                            const data::Dataset& dataset, const TokenBytes& token_bytes,
                            const EvaluationConfig& config) {
  data::LoaderConfig loader_config;
  loader_config.sequence_length = config.sequence_length;
  loader_config.shuffle = false;
  const int64_t num_packs =
      std::clamp(std::min(config.max_tokens, dataset.num_tokens()) / config.sequence_length,
                 int64_t{1}, int64_t{1} << 20);
  loader_config.window_packs = num_packs;
  std::vector<data::MixEntry> mix;
  mix.push_back({dataset, 1.0});
  CACHALOT_ASSIGN_OR_RETURN(data::DataLoader loader,
                            data::DataLoader::create(loader_config, std::move(mix)));
  CACHALOT_ASSIGN_OR_RETURN(data::Batch packs, loader.batch(loader.start(), num_packs, ctx.pool));
  const GlobalBatch batch(std::move(packs.packs), config.sequence_length,
                          num_packs * config.sequence_length, config.micro_batch_tokens);
  model::TrainingTerms terms;
  terms.dense_attention = config.dense_attention;
  LossSums sums;
  double num_bytes = 0;
  for (int64_t i = 0; i < batch.num_micro_batches(); ++i) {
    const std::span<const Sample> samples = batch.micro_batch(i);
    sums = model.losses(ctx, samples, {1, 0}, &terms, nullptr, sums);
    if (token_bytes.empty()) continue;
    for (const Sample& sample : samples) {
      for (size_t t = 0; t < sample.labels.size(); ++t) {
        const int32_t label = sample.labels[t];
        if (label >= 0)
          num_bytes += (sample.weights.empty() ? 1.0 : sample.weights[t]) * token_bytes[label];
      }
    }
  }
  Evaluation result;
  result.num_targets = sums.lm_targets;
  if (sums.lm_weight > 0) result.loss = sums.lm / sums.lm_weight;
  if (num_bytes > 0) result.bits_per_byte = sums.lm / std::numbers::ln2 / num_bytes;
  return result;
}

}  // namespace cachalot::train
