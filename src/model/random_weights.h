// Made-up weights of any shape and storage: for benchmarks and long-context runs, whose cost does
// not depend on the values.
#pragma once

#include <unordered_map>

#include "formats/inventory.h"
#include "model/weight_provider.h"

namespace cachalot::model {

// Stored as the config says (FP8 and FP4 with ue8m0 scales, or torch_dtype). Matrices have entries
// of about 1 / sqrt(columns), norms are 1, biases and sinks 0; a pure function of the seed. A view
// is valid until the next call, the embedding's until the end: loading holds one raw matrix at a
// time.
class RandomWeights : public WeightProvider {
 public:
  RandomWeights(const formats::ModelConfig& config, uint64_t seed);
  Result<tensor::TensorView> tensor(const std::string& name) const override;
  Result<tensor::QuantTensor> matrix(const std::string& name) const override;
  Result<std::vector<int32_t>> expert_ids(const std::string& name) const override;

 private:
  formats::ModelConfig config_;
  uint64_t seed_;
  std::unordered_map<std::string, formats::TensorInfo> inventory_;
  mutable std::vector<std::byte> embed_, weight_, scale_;
};

}  // namespace cachalot::model
