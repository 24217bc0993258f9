// What every verb that runs a model starts with: threads, instruction set, checkpoint, model. Owned
// together, in the right order.
#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "device/exec_context.h"
#include "model/transformer.h"
#include "model/weight_provider.h"

namespace cachalot::engine {

struct ModelOptions {
  std::string path;  // a checkpoint directory
  std::string precision = "official";
  std::string device = "cpu";
  int threads = 0;  // 0: one per usable core (base/usable_cores.h)
};

class LoadedModel {
 public:
  static Result<std::unique_ptr<LoadedModel>> load(const ModelOptions& options);
  // With weights from elsewhere; options.path is not read.
  static Result<std::unique_ptr<LoadedModel>> create(formats::ModelConfig config,
                                                     std::unique_ptr<model::WeightProvider> source,
                                                     const ModelOptions& options);

  device::ExecContext& context() { return context_; }
  const model::Transformer& transformer() const { return *transformer_; }
  const model::WeightProvider& source() const { return *source_; }

 private:
  LoadedModel(int threads, device::Isa isa) : pool_(threads), context_{&pool_, &arena_, isa} {}

  ThreadPool pool_;
  device::Arena arena_;
  device::ExecContext context_;
  std::unique_ptr<model::WeightProvider> source_;
  std::unique_ptr<model::Transformer> transformer_;
};

}  // namespace cachalot::engine
