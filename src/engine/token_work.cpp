#include "engine/token_work.h"

#include <fmt/format.h>

#include <utility>
#include <vector>

#include "device/floats.h"
#include "engine/model_cache_layout.h"
#include "engine/runner.h"

namespace cachalot::engine {

Result<TokenWork> count_token_work(LoadedModel& model, int64_t context) {
  const model::Transformer& transformer = model.transformer();
  const formats::ModelConfig& config = transformer.config();
  CACHALOT_ASSIGN_OR_RETURN(cache::CacheLayout layout,
                            model_cache_layout(config, transformer.precision(), {}));
  const int64_t block = layout.block_tokens();
  if (context < block || context % block != 0) {
    return invalid_argument(
        fmt::format("context: expected a multiple of {} tokens, found {}", block, context));
  }
  const cache::PoolLimits limits{layout.num_blocks(context), 1};
  CACHALOT_ASSIGN_OR_RETURN(
      const std::unique_ptr<cache::BlockPool> pool,
      cache::BlockPool::create(std::move(layout), limits, model.context().gpu));
  CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, cache::SequenceCache::create(*pool));
  CACHALOT_RETURN_IF_ERROR(sequence.reserve(context));
  sequence.advance(context - block);

  device::ExecContext ctx = model.context();
  TokenWork work;
  Runner runner(transformer, ctx);
  device::Floats streams(ctx), logits(ctx);
  streams.make_room((block - 1) * transformer.num_streams() * config.hidden_size);
  logits.make_room(config.vocab_size);
  const std::vector<int32_t> tokens(static_cast<size_t>(block - 1), 1);
  const auto run = [&](int64_t count, device::Work* counter) {
    ctx.work = counter;
    const StepInput input{&sequence, std::span(tokens).first(static_cast<size_t>(count))};
    return runner.forward({&input, 1}, streams.data());
  };
  device::Work before;
  CACHALOT_RETURN_IF_ERROR(run(block - 1, &before));
  CACHALOT_RETURN_IF_ERROR(run(1, &work.layers));
  ctx.work = &work.head;
  const std::vector<int64_t> row = {0};
  transformer.logits(ctx, streams.data(), row, logits.data());
  if (ctx.gpu != nullptr) ctx.gpu->synchronize();
  work.cache_bytes = static_cast<double>(before.cache_bytes + work.layers.cache_bytes) /
                     static_cast<double>(block);
  return work;
}

}  // namespace cachalot::engine
