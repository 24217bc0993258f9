// Where the model's loader takes weights from, by the names of the public checkpoint
// (reference/forward 7.2): a checkpoint, or made-up ones. Shapes have been checked against the
// config.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/mapped_pages.h"
#include "base/status.h"
#include "formats/weight_source.h"
#include "tensor/tensor_view.h"

namespace cachalot::model {

// Views live no longer than the provider. Errors name the tensor.
class WeightProvider {
 public:
  virtual ~WeightProvider() = default;
  virtual Result<tensor::TensorView> tensor(const std::string& name) const = 0;
  virtual Result<tensor::QuantTensor> matrix(const std::string& name) const = 0;
  virtual Result<std::vector<int32_t>> expert_ids(const std::string& name) const = 0;
  // The loader is done with a view of matrix() or tensor(), and may never read it again.
  virtual void release(const tensor::TensorView& view) const { (void)view; }
};

class CheckpointWeights : public WeightProvider {
 public:
  explicit CheckpointWeights(formats::WeightSource source) : source_(std::move(source)) {}
  Result<tensor::TensorView> tensor(const std::string& name) const override {
    return source_.tensor(name);
  }
  Result<tensor::QuantTensor> matrix(const std::string& name) const override {
    return source_.matrix(name);
  }
  Result<std::vector<int32_t>> expert_ids(const std::string& name) const override {
    return source_.expert_ids(name);
  }
  void release(const tensor::TensorView& view) const override { drop_mapped_pages(view.bytes()); }

 private:
  formats::WeightSource source_;
};

}  // namespace cachalot::model
