// A model's parameters in training: fp32 master weights and their gradients, by the names of the
// public checkpoint, and what is not trained by gradients (router biases, hash tables). Also what
// the model's loader reads its weights from.
// Source  reference/training 3.1; reference/forward 7.2.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "device/exec_context.h"
#include "formats/inventory.h"
#include "model/weight_provider.h"

namespace cachalot::train {

struct Parameter {
  formats::TensorInfo info;
  std::vector<float> master;
  std::vector<float> grad;  // empty: no gradient (router biases)
  // Of the embedding and the head, which the MTP block shares: its part of the gradient, summed
  // apart, so that the order of the whole sum depends on no cut into calls. Else empty.
  std::vector<float> mtp_grad;

  int64_t num_columns() const { return info.shape.back(); }
};

// invalid_argument where there are any: tensors of `origin` that the model does not have.
Status refuse_extra(std::span<const std::string> names, const std::string& origin);

// Owns them; their addresses stay. Threads: one owner.
class ParameterStore : public model::WeightProvider {
 public:
  // The checkpoint's values, dequantised.
  // Errors  the source's.
  static Result<ParameterStore> from_checkpoint(const formats::WeightSource& source);
  // Made-up values: of every tensor of the inventory as many as its shape says (CHECK).
  struct Values {
    std::function<std::vector<float>(const formats::TensorInfo&)> floats;
    std::function<std::vector<int32_t>(const formats::TensorInfo&)> expert_ids;  // of tables
  };
  static ParameterStore from_values(std::span<const formats::TensorInfo> inventory,
                                    const Values& values);

  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  Parameter* find(const std::string& name);  // null where there is none
  const Parameter* find(const std::string& name) const;
  const std::vector<int32_t>* table(const std::string& name) const;  // a hash table; null: none

  // Whether `other`, read from `origin`, holds the same names and shapes, no more and no fewer;
  // check_same() also the same hash tables, which no training changes.
  Status check_shapes(const ParameterStore& other, const std::string& origin) const;
  Status check_same(const ParameterStore& other, const std::string& origin) const;
  // Masters of a store that is the same; their addresses stay.
  void copy_values(const ParameterStore& other);

  void clear_grads(device::ExecContext& ctx);
  // Once after the last call that adds gradients: grad += mtp_grad.
  void finish_grads(device::ExecContext& ctx);

  Result<tensor::TensorView> tensor(const std::string& name) const override;
  Result<tensor::QuantTensor> matrix(const std::string& name) const override;
  Result<std::vector<int32_t>> expert_ids(const std::string& name) const override;

 private:
  ParameterStore() = default;
  void add(const formats::TensorInfo& info, std::vector<float> values);
  const Parameter& get(const std::string& name) const;

  std::vector<Parameter> parameters_;
  std::map<std::string, size_t> by_name_;
  std::map<std::string, std::vector<int32_t>> expert_ids_;
};

}  // namespace cachalot::train
