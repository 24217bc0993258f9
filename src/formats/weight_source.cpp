#include "formats/weight_source.h"

#include <fmt/format.h>

#include <filesystem>

namespace cachalot::formats {
namespace {

using tensor::DType;
using tensor::QuantTensor;
using tensor::Shape;
using tensor::TensorView;
using Stack = CanonicalName::Stack;

constexpr int64_t kFp4Group = 32;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64;
}
bool is_integer(DType dtype) {
  return dtype == DType::i64 || dtype == DType::i32 || dtype == DType::i16 || dtype == DType::u8;
}

std::string described(const TensorView& view) {
  return fmt::format("{} {}", tensor::dtype_name(view.dtype), tensor::shape_string(view.shape));
}

// Rows [begin, begin + count) of a matrix.
TensorView rows_of(const TensorView& matrix, int64_t begin, int64_t count) {
  const int64_t row_bytes = matrix.shape[1] * dtype_bytes(matrix.dtype);
  return {matrix.dtype, {count, matrix.shape[1]}, matrix.data + begin * row_bytes};
}

}  // namespace

Result<WeightSource> WeightSource::open(const std::string& directory) {
  CACHALOT_ASSIGN_OR_RETURN(const ModelConfig config, load_config(directory));
  CACHALOT_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(directory));
  return create(std::move(checkpoint), config);
}

Result<WeightSource> WeightSource::create(Checkpoint checkpoint, const ModelConfig& config) {
  CACHALOT_RETURN_IF_ERROR(validate_config(config, checkpoint.path()));
  WeightSource source(std::move(checkpoint), config);
  source.inventory_ = tensor_inventory(config);
  for (size_t i = 0; i < source.inventory_.size(); ++i) {
    source.by_name_.emplace(source.inventory_[i].name, static_cast<uint32_t>(i));
  }
  CACHALOT_RETURN_IF_ERROR(source.index_files());
  for (int64_t i = 0; i < config.num_nextn_predict_layers; ++i) {
    if (!source.contains(fmt::format("mtp.{}.e_proj.weight", i))) break;
    source.num_mtp_blocks_ = i + 1;
  }
  return source;
}

Status WeightSource::index_files() {
  for (const Checkpoint::Entry& entry : checkpoint_.entries()) {
    CanonicalName canonical = canonical_name(entry.name);
    std::string_view* slot = nullptr;
    if (canonical.stack != Stack::none) {
      Stacked& stacked = stacks_[canonical.name];
      slot = canonical.stack == Stack::gate_up ? &stacked.gate_up : &stacked.down;
    } else {
      slot = &in_files_[canonical.name];
    }
    if (!slot->empty()) {
      return invalid_argument(fmt::format("{}: tensor {}: expected it once, found {} and {}",
                                          checkpoint_.path(), canonical.name, *slot, entry.name));
    }
    *slot = entry.name;
    if (canonical.stack != Stack::none || by_name_.contains(canonical.name)) continue;
    constexpr std::string_view kScale = ".scale";
    const bool is_scale =
        canonical.name.ends_with(kScale) &&
        by_name_.contains(canonical.name.substr(0, canonical.name.size() - kScale.size()) +
                          ".weight");
    if (!is_scale) unknown_.emplace_back(entry.name);
  }
  return {};
}

const TensorInfo* WeightSource::info(std::string_view canonical) const {
  const auto it = by_name_.find(canonical);
  return it == by_name_.end() ? nullptr : &inventory_[it->second];
}

std::optional<WeightSource::Raw> WeightSource::raw(std::string_view canonical) const {
  if (const auto it = in_files_.find(std::string(canonical)); it != in_files_.end()) {
    return Raw{*checkpoint_.find(it->second), it->second};
  }
  const std::optional<ExpertTensor> expert = parse_expert_name(canonical);
  if (!expert) return std::nullopt;
  const auto it = stacks_.find(fmt::format("{}.{}", expert->prefix, expert->part));
  if (it == stacks_.end()) return std::nullopt;
  const std::string_view file_name = expert->matrix == 2 ? it->second.down : it->second.gate_up;
  if (file_name.empty()) return std::nullopt;
  const TensorView& stacked = *checkpoint_.find(file_name);
  // Any other shape is reported by the caller's check, which sees the whole stack.
  if (stacked.shape.size() != 3 || stacked.shape[0] != config_.n_routed_experts)
    return Raw{stacked, file_name};
  const TensorView one = stacked.slice(expert->expert);
  if (expert->matrix == 2) return Raw{one, file_name};
  if (one.shape[0] % 2 != 0) return Raw{stacked, file_name};
  const int64_t half = one.shape[0] / 2;
  return Raw{rows_of(one, expert->matrix == 3 ? half : 0, half), file_name};
}

bool WeightSource::contains(std::string_view canonical) const { return raw(canonical).has_value(); }

Status WeightSource::wrong(std::string_view canonical, std::string_view expected,
                           std::string_view found) const {
  const std::optional<Raw> at = raw(canonical);
  const std::string_view file_name = at ? at->file_name : canonical;
  const StoredAs* stored = checkpoint_.stored_as(file_name);
  const std::string spelled =
      stored == nullptr || stored->dtype.empty()
          ? std::string(found)
          : fmt::format("{} {}", stored->dtype, tensor::shape_string(stored->shape));
  const std::string alias = file_name == canonical ? "" : fmt::format(" ({})", file_name);
  return invalid_argument(fmt::format("{}: tensor {}{}: expected {}, found {}",
                                      checkpoint_.file_of(file_name), canonical, alias, expected,
                                      spelled));
}

Result<TensorView> WeightSource::scale_of(const TensorInfo& info, const Shape& shape,
                                          bool allow_f32) const {
  const std::string name = scale_name(info.name);
  const std::string expected =
      fmt::format("{} {}", allow_f32 ? "F8_E8M0 or F32" : "F8_E8M0", tensor::shape_string(shape));
  const std::optional<Raw> scale = raw(name);
  if (!scale) return wrong(name, expected, "no such tensor");
  const bool is_known =
      scale->view.dtype == DType::f8_e8m0 || (allow_f32 && scale->view.dtype == DType::f32);
  if (!is_known || scale->view.shape != shape) return wrong(name, expected, described(scale->view));
  return scale->view;
}

Result<QuantTensor> WeightSource::matrix(std::string_view canonical) const {
  const TensorInfo* expected = info(canonical);
  if (expected == nullptr || expected->shape.size() != 2 ||
      expected->tensor_class == TensorClass::table) {
    return not_found(
        fmt::format("{}: tensor {}: expected a matrix of this configuration, found none",
                    checkpoint_.path(), canonical));
  }
  const std::string shape = tensor::shape_string(expected->shape);
  const std::optional<Raw> found = raw(canonical);
  if (!found) return wrong(canonical, fmt::format("a matrix {}", shape), "no such tensor");
  const TensorView& weight = found->view;
  QuantTensor out;
  out.weight = weight;
  out.rows = expected->shape[0];
  out.columns = expected->shape[1];
  const bool may_quantise = expected->tensor_class == TensorClass::linear ||
                            expected->tensor_class == TensorClass::expert;
  if (weight.dtype == DType::f8_e4m3 && may_quantise) {
    if (weight.shape != expected->shape)
      return wrong(canonical, fmt::format("F8_E4M3 {}", shape), described(weight));
    out.block_rows = config_.quantization_config.block_rows;
    out.block_columns = config_.quantization_config.block_columns;
    CACHALOT_ASSIGN_OR_RETURN(out.scale, scale_of(*expected,
                                                  {ceil_div(out.rows, out.block_rows),
                                                   ceil_div(out.columns, out.block_columns)},
                                                  true));
    return out;
  }
  if (weight.dtype == DType::i8 && expected->tensor_class == TensorClass::expert) {
    if (config_.expert_dtype != ExpertDType::fp4) {
      return wrong(
          canonical,
          fmt::format("expert_dtype fp4 in config.json for FP4 pairs {}", described(weight)),
          expert_dtype_name(config_.expert_dtype));
    }
    const Shape packed = {out.rows, out.columns / 2};
    if (out.columns % kFp4Group != 0 || weight.shape != packed) {
      return wrong(canonical, fmt::format("I8 pairs {}", tensor::shape_string(packed)),
                   described(weight));
    }
    out.block_rows = 1;
    out.block_columns = kFp4Group;
    CACHALOT_ASSIGN_OR_RETURN(out.scale,
                              scale_of(*expected, {out.rows, out.columns / kFp4Group}, false));
    return out;
  }
  if (!is_float(weight.dtype) || weight.dtype == DType::f64 || weight.shape != expected->shape) {
    return wrong(canonical,
                 fmt::format("BF16, F32 or F16{} {}",
                             may_quantise ? ", F8_E4M3 or FP4 pairs of" : "", shape),
                 described(weight));
  }
  return out;
}

Result<TensorView> WeightSource::tensor(std::string_view canonical) const {
  const TensorInfo* expected = info(canonical);
  if (expected == nullptr) {
    return not_found(fmt::format("{}: tensor {}: expected one of this configuration, found none",
                                 checkpoint_.path(), canonical));
  }
  const bool is_table = expected->tensor_class == TensorClass::table;
  const std::string description =
      fmt::format("{} {}", is_table ? "integers" : "floats", tensor::shape_string(expected->shape));
  const std::optional<Raw> found = raw(canonical);
  if (!found) return wrong(canonical, description, "no such tensor");
  const bool is_right = is_table ? is_integer(found->view.dtype) : is_float(found->view.dtype);
  if (!is_right || found->view.shape != expected->shape)
    return wrong(canonical, description, described(found->view));
  return found->view;
}

Result<std::vector<float>> WeightSource::floats(std::string_view canonical) const {
  CACHALOT_ASSIGN_OR_RETURN(const TensorView view, tensor(canonical));
  return tensor::to_floats(view);
}

Result<std::vector<int32_t>> WeightSource::expert_ids(std::string_view canonical) const {
  CACHALOT_ASSIGN_OR_RETURN(const TensorView view, tensor(canonical));
  if (!is_integer(view.dtype)) return wrong(canonical, "integers", described(view));
  const std::vector<int64_t> ids = tensor::to_integers(view);
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config_.n_routed_experts) {
      return wrong(canonical, fmt::format("expert ids from 0 to {}", config_.n_routed_experts - 1),
                   fmt::format("{} at element {}", ids[i], i));
    }
    out.push_back(static_cast<int32_t>(ids[i]));
  }
  return out;
}

Status WeightSource::validate() const {
  for (const TensorInfo& info : inventory_) {
    if (info.layer >= config_.num_hidden_layers + num_mtp_blocks_) continue;
    if (info.tensor_class == TensorClass::linear || info.tensor_class == TensorClass::expert) {
      const auto result = matrix(info.name);
      if (!result.has_value()) return result.error();
    } else {
      const auto result = tensor(info.name);
      if (!result.has_value()) return result.error();
    }
  }
  return {};
}

}  // namespace cachalot::formats
