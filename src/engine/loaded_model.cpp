#include "engine/loaded_model.h"

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/log.h"
#include "formats/weight_source.h"

namespace cachalot::engine {

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const ModelOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(formats::WeightSource source,
                            formats::WeightSource::open(options.path));
  CACHALOT_RETURN_IF_ERROR(source.validate());
  formats::ModelConfig config = source.config();
  config.num_nextn_predict_layers = source.num_mtp_blocks();
  WeightCache cache(options.weight_cache, source, config);
  return create(std::move(config), std::make_unique<model::CheckpointWeights>(std::move(source)),
                options, std::move(cache));
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::create(
    formats::ModelConfig config, std::unique_ptr<model::WeightProvider> source,
    const ModelOptions& options) {
  return create(std::move(config), std::move(source), options, std::nullopt);
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::create(
    formats::ModelConfig config, std::unique_ptr<model::WeightProvider> source,
    const ModelOptions& options, std::optional<WeightCache> cache) {
  if (options.device != "cpu") {
    return unsupported(
        fmt::format("device: expected cpu in this build, found \"{}\"", options.device));
  }
  CACHALOT_ASSIGN_OR_RETURN(const model::Precision precision,
                            model::parse_precision(options.precision));
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  std::unique_ptr<LoadedModel> loaded(new LoadedModel(options.threads, isa));
  loaded->source_ = std::move(source);
  loaded->cache_ = std::move(cache);
  std::optional<model::PackedFile> kept;
  if (loaded->cache_) kept = loaded->cache_->find();
  loaded->store_ = kept ? std::make_unique<model::PackedStore>(*std::move(kept))
                        : std::make_unique<model::PackedStore>();
  auto build = [&] {
    return model::Transformer::create(loaded->context_, config, *loaded->source_, precision,
                                      loaded->store_.get());
  };
  Result<model::Transformer> transformer = build();
  if (!transformer && loaded->store_->is_mapped() &&
      transformer.error().code() == StatusCode::data_loss) {
    log_warning(transformer.error().message() + "; the weights are packed anew");
    loaded->store_ = std::make_unique<model::PackedStore>();
    transformer = build();
  }
  if (!transformer) return transformer.error();
  loaded->transformer_ = std::make_unique<model::Transformer>(*std::move(transformer));
  if (loaded->cache_ && !loaded->store_->is_mapped()) loaded->keep_later();
  return loaded;
}

void LoadedModel::keep_later() {
  static constexpr std::chrono::seconds kDelay{3};  // the first answer comes first
  keeper_ = std::jthread([this](std::stop_token stop) {
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any().wait_for(lock, stop, kDelay, [] { return false; });
    cache_->keep(*store_);
  });
}

}  // namespace cachalot::engine
