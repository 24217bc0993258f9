#include "train/parameters.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "ops/rows/rows.h"

namespace cachalot::train {
namespace {
// Moved by the balancing rule, not by a gradient (reference/training 6.5).
bool has_gradient(const formats::TensorInfo& info) { return !info.name.ends_with("gate.bias"); }
bool is_shared_with_mtp(const formats::TensorInfo& info) {
  return info.component == formats::Component::embedding ||
         info.component == formats::Component::head;
}
}  // namespace

Status refuse_extra(std::span<const std::string> names, const std::string& origin) {
  constexpr size_t kMaxNamed = 8;
  if (names.empty()) return {};
  const auto named = names.first(std::min(names.size(), kMaxNamed));
  return invalid_argument(fmt::format(
      "{}: expected no tensors but the model's, found {}{}", origin, fmt::join(named, ", "),
      names.size() > kMaxNamed ? fmt::format(" and {} more", names.size() - kMaxNamed) : ""));
}

void ParameterStore::add(const formats::TensorInfo& info, std::vector<float> values) {
  by_name_.emplace(info.name, parameters_.size());
  Parameter& parameter = parameters_.emplace_back();
  parameter.info = info;
  parameter.master = std::move(values);
  if (has_gradient(info)) parameter.grad.resize(parameter.master.size());
  if (is_shared_with_mtp(info)) parameter.mtp_grad.resize(parameter.master.size());
}

Result<ParameterStore> ParameterStore::from_checkpoint(const formats::WeightSource& source) {
  ParameterStore store;
  for (const formats::TensorInfo& info : source.inventory()) {
    if (info.tensor_class == formats::TensorClass::table) {
      CACHALOT_ASSIGN_OR_RETURN(store.expert_ids_[info.name], source.expert_ids(info.name));
    } else if (info.tensor_class == formats::TensorClass::linear ||
               info.tensor_class == formats::TensorClass::expert) {
      CACHALOT_ASSIGN_OR_RETURN(const tensor::QuantTensor quant, source.matrix(info.name));
      store.add(info, tensor::dequantize(quant));
    } else {
      CACHALOT_ASSIGN_OR_RETURN(std::vector<float> values, source.floats(info.name));
      store.add(info, std::move(values));
    }
  }
  return store;
}

ParameterStore ParameterStore::from_values(std::span<const formats::TensorInfo> inventory,
                                           const Values& values) {
  ParameterStore store;
  for (const formats::TensorInfo& info : inventory) {
    const auto count = static_cast<size_t>(tensor::num_elements(info.shape));
    if (info.tensor_class == formats::TensorClass::table) {
      std::vector<int32_t> ids = values.expert_ids(info);
      CACHALOT_CHECK_MSG(ids.size() == count, info.name);
      store.expert_ids_[info.name] = std::move(ids);
    } else {
      std::vector<float> floats = values.floats(info);
      CACHALOT_CHECK_MSG(floats.size() == count, info.name);
      store.add(info, std::move(floats));
    }
  }
  return store;
}

Parameter* ParameterStore::find(const std::string& name) {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &parameters_[found->second];
}

const Parameter* ParameterStore::find(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &parameters_[found->second];
}

const std::vector<int32_t>* ParameterStore::table(const std::string& name) const {
  const auto found = expert_ids_.find(name);
  return found == expert_ids_.end() ? nullptr : &found->second;
}

Status ParameterStore::check_shapes(const ParameterStore& other, const std::string& origin) const {
  for (const Parameter& parameter : parameters_) {
    const Parameter* found = other.find(parameter.info.name);
    if (found == nullptr || found->info.shape != parameter.info.shape) {
      return invalid_argument(
          fmt::format("{}: {}: expected {}, found {}", origin, parameter.info.name,
                      tensor::shape_string(parameter.info.shape),
                      found == nullptr ? "none" : tensor::shape_string(found->info.shape)));
    }
  }
  std::vector<std::string> extra;
  for (const Parameter& parameter : other.parameters_) {
    if (find(parameter.info.name) == nullptr) extra.push_back(parameter.info.name);
  }
  return refuse_extra(extra, origin);
}

Status ParameterStore::check_same(const ParameterStore& other, const std::string& origin) const {
  CACHALOT_RETURN_IF_ERROR(check_shapes(other, origin));
  for (const auto& [name, ids] : expert_ids_) {
    const std::vector<int32_t>* found = other.table(name);
    if (found == nullptr || *found != ids) {
      return invalid_argument(fmt::format("{}: {}: expected the run's hash table, found {}", origin,
                                          name, found == nullptr ? "none" : "another"));
    }
  }
  std::vector<std::string> extra;
  for (const auto& [name, ids] : other.expert_ids_) {
    if (table(name) == nullptr) extra.push_back(name);
  }
  return refuse_extra(extra, origin);
}

void ParameterStore::copy_values(const ParameterStore& other) {
  for (Parameter& parameter : parameters_) {
    const std::vector<float>& from = other.get(parameter.info.name).master;
    std::copy(from.begin(), from.end(), parameter.master.begin());
  }
}

const Parameter& ParameterStore::get(const std::string& name) const {
  const auto found = by_name_.find(name);
  CACHALOT_CHECK_MSG(found != by_name_.end(), name);
  return parameters_[found->second];
}

void ParameterStore::clear_grads(device::ExecContext& ctx) {
  for (Parameter& parameter : parameters_) {
    for (std::vector<float>* grad : {&parameter.grad, &parameter.mtp_grad})
      ops::fill(ctx, grad->data(), static_cast<int64_t>(grad->size()), 0.0f);
  }
}

void ParameterStore::finish_grads(device::ExecContext& ctx) {
  for (Parameter& parameter : parameters_) {
    const auto n = static_cast<int64_t>(parameter.mtp_grad.size());
    ops::add_rows(ctx, {parameter.grad.data(), n, 1, n, parameter.mtp_grad.data(), n}, false);
  }
}

Result<tensor::TensorView> ParameterStore::tensor(const std::string& name) const {
  const Parameter& parameter = get(name);
  return tensor::TensorView{tensor::DType::f32, parameter.info.shape,
                            reinterpret_cast<const std::byte*>(parameter.master.data())};
}

Result<tensor::QuantTensor> ParameterStore::matrix(const std::string& name) const {
  const Parameter& parameter = get(name);
  tensor::QuantTensor quant;
  CACHALOT_ASSIGN_OR_RETURN(quant.weight, tensor(name));
  quant.rows = parameter.info.shape[0];
  quant.columns = parameter.info.shape[1];
  return quant;
}

Result<std::vector<int32_t>> ParameterStore::expert_ids(const std::string& name) const {
  const auto found = expert_ids_.find(name);
  CACHALOT_CHECK_MSG(found != expert_ids_.end(), name);
  return found->second;
}

}  // namespace cachalot::train
