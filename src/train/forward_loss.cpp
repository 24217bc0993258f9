#include "train/forward_loss.h"

#include "train/sample_batch.h"

namespace cachalot::train {

void forward_loss(device::ExecContext& ctx, const model::Transformer& model,
                  std::span<const Sample> samples, LogitsLoss& loss, model::TrainingTerms* terms,
                  model::ForwardProbe* probe) {
  const device::ArenaScope scope(*ctx.arena);
  const formats::ModelConfig& config = model.config();
  std::vector<int32_t> tokens, labels;
  std::vector<int64_t> lengths, rows;
  for (const Sample& sample : samples) {
    for (size_t i = 0; i < sample.tokens.size(); ++i) {
      if (sample.labels[i] >= 0) {
        rows.push_back(static_cast<int64_t>(tokens.size()));
        labels.push_back(sample.labels[i]);
      }
      tokens.push_back(sample.tokens[i]);
    }
    lengths.push_back(static_cast<int64_t>(sample.tokens.size()));
  }
  const SampleBatch batch(config, model.precision(), std::move(tokens), lengths);
  const autograd::Context context(ctx);
  float* embedded = context.floats(batch.rows() * model.num_streams() * config.hidden_size);
  const float* streams = model.forward(context, batch.batch(), embedded, probe, terms);
  const model::RecomputePlan plan = terms == nullptr ? model::RecomputePlan() : terms->recompute;
  const auto num_rows = static_cast<int64_t>(rows.size());
  const int64_t lot_rows = plan.rows_of_logits(config.vocab_size);
  for (int64_t first = 0; first < num_rows; first += lot_rows) {
    const device::ArenaScope lot_scope(*ctx.arena);
    const auto count = static_cast<size_t>(std::min(lot_rows, num_rows - first));
    float* logits = context.floats(static_cast<int64_t>(count) * config.vocab_size);
    model.logits(context, streams, std::span(rows).subspan(first, count), logits, probe);
    const LogitsLoss::Lot lot{first, std::span(labels).subspan(first, count), logits,
                              config.vocab_size};
    loss.looks_first() ? loss.look(ctx, lot) : loss.add(context, lot);
  }
}

}  // namespace cachalot::train
