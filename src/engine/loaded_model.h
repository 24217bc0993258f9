// What every verb that runs a model starts with: threads, instruction set or GPU, checkpoint,
// model. Owned together, in the right order.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/status.h"
#include "base/thread_pool.h"
#include "device/exec_context.h"
#include "engine/weight_cache.h"
#include "model/transformer.h"
#include "model/weight_provider.h"

namespace cachalot::engine {

struct ModelOptions {
  std::string path;  // a checkpoint directory
  std::string precision = "official";
  std::string device = "cpu";  // cuda: the first GPU; cuda:N: the one of that number
  int threads = 0;             // 0: one per usable core (base/usable_cores.h)
  WeightCacheOptions weight_cache = WeightCacheOptions::from_environment();
};

// On a CPU a thread of its own keeps freshly packed weights for the next start (weight_cache.h), a
// few seconds after the load or at the end, which waits for it. A GPU packs them itself, at each
// start.
class LoadedModel {
 public:
  static Result<std::unique_ptr<LoadedModel>> load(const ModelOptions& options);
  // With weights from elsewhere, or made up from the seed (model/random_weights.h); options.path is
  // not read.
  static Result<std::unique_ptr<LoadedModel>> create(formats::ModelConfig config,
                                                     std::unique_ptr<model::WeightProvider> source,
                                                     const ModelOptions& options);
  static Result<std::unique_ptr<LoadedModel>> random(formats::ModelConfig config, uint64_t seed,
                                                     const ModelOptions& options);

  device::ExecContext& context() { return context_; }
  const model::Transformer& transformer() const { return *transformer_; }
  const model::WeightProvider& source() const { return *source_; }
  // Of every byte of the weights (model/weights_hash.h).
  uint64_t weights_fingerprint() const { return store_->weights_fingerprint(); }
  // Whether the packed weights were those of an earlier start.
  bool is_mapped() const { return store_->is_mapped(); }

 private:
  LoadedModel(int threads, device::Isa isa, std::unique_ptr<device::Gpu> gpu);
  // With the context alone.
  static Result<std::unique_ptr<LoadedModel>> open(const ModelOptions& options);
  Status load(formats::ModelConfig config, std::unique_ptr<model::WeightProvider> source,
              const ModelOptions& options, std::optional<WeightCache> cache,
              bool counts_weights = true);
  void keep_later();

  ThreadPool pool_;
  std::unique_ptr<device::Gpu> gpu_;  // null: the CPU
  device::Arena arena_;
  device::ExecContext context_;
  std::unique_ptr<model::WeightProvider> source_;
  std::optional<WeightCache> cache_;
  std::unique_ptr<model::PackedStore> store_;
  std::unique_ptr<model::Transformer> transformer_;
  std::jthread keeper_;  // last: it ends before what it reads
};

}  // namespace cachalot::engine
