// Made-up weights of any shape and storage: for benchmarks and long-context runs, whose cost does
// not depend on the values.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "base/thread_pool.h"
#include "device/buffer.h"
#include "device/gpu.h"
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
  // Matrices are made in the memory of the GPU, which outlives this.
  void use_gpu(device::Gpu& gpu) { gpu_ = &gpu; }
  Result<tensor::TensorView> tensor(const std::string& name) const override;
  Result<tensor::QuantTensor> matrix(const std::string& name) const override;
  Result<std::vector<int32_t>> expert_ids(const std::string& name) const override;
  void release(const tensor::TensorView& view) const override;

 private:
  // The random bits of a matrix, until the next call.
  const std::byte* fill(const std::string& name, int64_t num_bytes, uint64_t keep,
                        uint64_t set) const;

  static constexpr int64_t kKeptBytes = int64_t{64} << 20;  // of weight_, for the next matrix

  formats::ModelConfig config_;
  uint64_t seed_;
  device::Gpu* gpu_ = nullptr;
  std::unordered_map<std::string, formats::TensorInfo> inventory_;
  mutable ThreadPool pool_{1};
  mutable device::Buffer weight_;
  mutable std::vector<std::byte> embed_, values_, scale_;
};

}  // namespace cachalot::model
