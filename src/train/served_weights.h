// The masters as weights for inference: rollouts, the reference policy, teachers. A model that is
// loaded from them computes the bits of the training forward pass.
// Source  reference/infrastructure 6 (rollouts run on native FP4), reference/post-training 9.1.
//         fp8: linears E4M3 per 128 x 128, experts the same or, under qat, FP4 per 32; the rest as
//         training_precision.h says. Quantisers are the exporter's (formats/block_quantize.h).
// Memory  a quantised matrix lives until the loader has packed it (one that it cuts, as wo_a, to
//         the end); the embedding, which models read from here, is a copy. So the masters may
//         change once a model is loaded.
// Errors  invalid_argument: a master that is not finite, with the tensor's name.
// Threads  one loader at a time.
#pragma once

#include <map>
#include <vector>

#include "device/exec_context.h"
#include "train/parameters.h"
#include "train/training_precision.h"

namespace cachalot::train {

class ServedWeights : public model::WeightProvider {
 public:
  // Borrows the parameters until a model has been loaded.
  ServedWeights(const ParameterStore& parameters, TrainingPrecision precision);

  Result<tensor::TensorView> tensor(const std::string& name) const override;
  Result<tensor::QuantTensor> matrix(const std::string& name) const override;
  Result<std::vector<int32_t>> expert_ids(const std::string& name) const override;
  void release(const tensor::TensorView& view) const override;

 private:
  // Owned until released.
  const std::byte* hold(std::vector<std::byte> bytes) const;

  const ParameterStore& parameters_;
  TrainingPrecision precision_;
  std::vector<float> embedding_;
  mutable std::map<const std::byte*, std::vector<std::byte>> held_;
};

}  // namespace cachalot::train
