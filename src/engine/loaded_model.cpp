#include "engine/loaded_model.h"

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/log.h"
#include "formats/weight_source.h"

namespace cachalot::engine {
namespace {

constexpr int64_t kArenaBlockBytes = int64_t{1} << 24;

// Null for the CPU.
Result<std::unique_ptr<device::Gpu>> open_gpu(std::string_view device) {
  if (device == "cpu") return std::unique_ptr<device::Gpu>();
  int ordinal = 0;
  std::string_view number = device;
  if (number.starts_with("cuda:")) {
    number.remove_prefix(5);
    const auto [end, error] =
        std::from_chars(number.data(), number.data() + number.size(), ordinal);
    if (error == std::errc() && end == number.data() + number.size() && ordinal >= 0)
      return device::Gpu::open(ordinal);
  } else if (device == "cuda") {
    return device::Gpu::open(0);
  }
  return invalid_argument(
      fmt::format("device: expected cpu, cuda or cuda:N, found \"{}\"", device));
}

}  // namespace

LoadedModel::LoadedModel(int threads, device::Isa isa, std::unique_ptr<device::Gpu> gpu)
    : pool_(threads),
      gpu_(std::move(gpu)),
      arena_(kArenaBlockBytes, gpu_.get()),
      context_{&pool_, &arena_, isa, gpu_.get()} {}

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
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<device::Gpu> gpu, open_gpu(options.device));
  CACHALOT_ASSIGN_OR_RETURN(const model::Precision precision,
                            model::parse_precision(options.precision));
  if (precision.fp8_cores && gpu == nullptr) {
    return unsupported(
        fmt::format("precision official-fp8: expected device cuda, found {}", options.device));
  }
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  std::unique_ptr<LoadedModel> loaded(new LoadedModel(options.threads, isa, std::move(gpu)));
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
