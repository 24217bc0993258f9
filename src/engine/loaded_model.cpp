#include "engine/loaded_model.h"

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/log.h"
#include "formats/weight_source.h"
#include "model/random_weights.h"

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

Result<std::unique_ptr<LoadedModel>> LoadedModel::open(const ModelOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<device::Gpu> gpu, open_gpu(options.device));
  CACHALOT_ASSIGN_OR_RETURN(const device::Isa isa, device::chosen_isa());
  return std::unique_ptr<LoadedModel>(new LoadedModel(options.threads, isa, std::move(gpu)));
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const ModelOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(formats::WeightSource source,
                            formats::WeightSource::open(options.path));
  CACHALOT_RETURN_IF_ERROR(source.validate());
  formats::ModelConfig config = source.config();
  config.num_nextn_predict_layers = source.num_mtp_blocks();
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> loaded, open(options));
  std::optional<WeightCache> cache;
  if (loaded->gpu_ == nullptr) cache.emplace(options.weight_cache, source, config);
  CACHALOT_RETURN_IF_ERROR(
      loaded->load(std::move(config), std::make_unique<model::CheckpointWeights>(std::move(source)),
                   options, std::move(cache)));
  return loaded;
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::create(
    formats::ModelConfig config, std::unique_ptr<model::WeightProvider> source,
    const ModelOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> loaded, open(options));
  CACHALOT_RETURN_IF_ERROR(
      loaded->load(std::move(config), std::move(source), options, std::nullopt));
  return loaded;
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::random(formats::ModelConfig config, uint64_t seed,
                                                         const ModelOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<LoadedModel> loaded, open(options));
  auto source = std::make_unique<model::RandomWeights>(config, seed);
  const bool is_on_gpu = loaded->gpu_ != nullptr;
  if (is_on_gpu) source->use_gpu(*loaded->gpu_);
  CACHALOT_RETURN_IF_ERROR(
      loaded->load(std::move(config), std::move(source), options, std::nullopt, !is_on_gpu));
  // Of weights that no host has seen, the seed is told from others.
  if (is_on_gpu)
    loaded->store_->count(loaded->context_, "seed", std::as_bytes(std::span(&seed, 1)));
  return loaded;
}

Status LoadedModel::load(formats::ModelConfig config, std::unique_ptr<model::WeightProvider> source,
                         const ModelOptions& options, std::optional<WeightCache> cache,
                         bool counts_weights) {
  CACHALOT_ASSIGN_OR_RETURN(const model::Precision precision,
                            model::parse_precision(options.precision));
  if (precision.fp8_cores && gpu_ == nullptr) {
    return unsupported(
        fmt::format("precision official-fp8: expected device cuda, found {}", options.device));
  }
  source_ = std::move(source);
  cache_ = std::move(cache);
  std::optional<model::PackedFile> kept;
  if (cache_) kept = cache_->find();
  store_ = kept ? std::make_unique<model::PackedStore>(*std::move(kept))
                : std::make_unique<model::PackedStore>();
  auto build = [&] {
    return model::Transformer::create(context_, config, *source_, precision,
                                      counts_weights ? store_.get() : nullptr);
  };
  Result<model::Transformer> transformer = build();
  if (!transformer && store_->is_mapped() && transformer.error().code() == StatusCode::data_loss) {
    log_warning(transformer.error().message() + "; the weights are packed anew");
    store_ = std::make_unique<model::PackedStore>();
    transformer = build();
  }
  if (!transformer) return transformer.error();
  transformer_ = std::make_unique<model::Transformer>(*std::move(transformer));
  if (cache_ && !store_->is_mapped()) keep_later();
  return {};
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
