#include "model/random_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/rng.h"
#include "device/exec_context.h"
#include "ops/rows/random_bits.h"

namespace cachalot::model {
namespace {

using formats::TensorClass;
using tensor::DType;

uint64_t seed_of(uint64_t seed, const std::string& name) {
  uint64_t hash = seed ^ 0xCBF29CE484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

// Exponent e so that 2^e is about 1 / sqrt(columns) over the spread of the codes.
int weight_exponent(int64_t columns, double code_spread) {
  return static_cast<int>(
      std::lround(-0.5 * std::log2(static_cast<double>(columns)) - std::log2(code_spread)));
}

// What a vector or small parameter holds everywhere.
float constant_of(const std::string& name) {
  if (name.ends_with("norm.weight")) return 1.0f;
  if (name.ends_with("_scale")) return 0.1f;
  return 0.0f;
}

// Signs and mantissas random, exponent e or e + 1: magnitudes in [2^e, 4 * 2^e).
constexpr uint64_t kBf16Keep = 0x80FF'80FF'80FF'80FF;
uint64_t bf16_set(int exponent) {
  return (static_cast<uint64_t>((exponent + 127) & 0xFE) << 7) * 0x0001'0001'0001'0001;
}
constexpr uint64_t kF32Keep = 0x80FF'FFFF'80FF'FFFF;
uint64_t f32_set(int exponent) {
  return (static_cast<uint64_t>((exponent + 127) & 0xFE) << 23) * 0x0000'0001'0000'0001;
}

}  // namespace

RandomWeights::RandomWeights(const formats::ModelConfig& config, uint64_t seed)
    : config_(config), seed_(seed) {
  for (formats::TensorInfo& info : formats::tensor_inventory(config)) {
    std::string name = info.name;
    inventory_.emplace(std::move(name), std::move(info));
  }
}

const std::byte* RandomWeights::fill(const std::string& name, int64_t num_bytes, uint64_t keep,
                                     uint64_t set) const {
  const int64_t num_words = (num_bytes + 7) / 8;
  if (weight_.size() < 8 * num_words || weight_.size() > std::max(8 * num_words, kKeptBytes)) {
    weight_ = device::Buffer();
    weight_ = device::Buffer::create(8 * num_words, gpu_).value();
  }
  device::ExecContext ctx{&pool_, nullptr, device::Isa::reference, gpu_};
  ops::random_bits(ctx, {seed_of(seed_, name), keep, set, weight_.data(), num_words});
  return weight_.data();
}

Result<tensor::TensorView> RandomWeights::tensor(const std::string& name) const {
  const auto found = inventory_.find(name);
  if (found == inventory_.end())
    return not_found(name + ": expected a tensor of the config, found none");
  const tensor::Shape& shape = found->second.shape;
  const int64_t count = tensor::num_elements(shape);
  if (name == "embed.weight") {
    if (embed_.empty()) {
      embed_.resize(static_cast<size_t>((count + 3) / 4 * 8));
      device::ExecContext ctx{&pool_, nullptr, device::Isa::reference};
      ops::random_bits(ctx, {seed_of(seed_, name), kBf16Keep, bf16_set(-1), embed_.data(),
                             static_cast<int64_t>(embed_.size() / 8)});
    }
    return tensor::TensorView{DType::bf16, shape, embed_.data()};
  }
  const std::vector<float> values(static_cast<size_t>(count), constant_of(name));
  values_.resize(values.size() * sizeof(float));
  std::memcpy(values_.data(), values.data(), values_.size());
  return tensor::TensorView{DType::f32, shape, values_.data()};
}

Result<tensor::QuantTensor> RandomWeights::matrix(const std::string& name) const {
  const auto found = inventory_.find(name);
  if (found == inventory_.end())
    return not_found(name + ": expected a matrix of the config, found none");
  const formats::TensorInfo& info = found->second;
  tensor::QuantTensor out;
  out.rows = info.shape[0];
  out.columns = info.shape[1];
  if (name == "embed.weight") {
    CACHALOT_ASSIGN_OR_RETURN(out.weight, tensor(name));
    return out;
  }
  const int64_t count = out.rows * out.columns;
  const bool quantised =
      config_.quantization_config.present &&
      (info.tensor_class == TensorClass::linear || info.tensor_class == TensorClass::expert);
  if (!quantised) {
    const int exponent = weight_exponent(out.columns, 1.7);
    const bool f32 = info.tensor_class == TensorClass::f32 || config_.torch_dtype == "float32";
    out.weight = {f32 ? DType::f32 : DType::bf16, info.shape,
                  f32 ? fill(name, 4 * count, kF32Keep, f32_set(exponent))
                      : fill(name, 2 * count, kBf16Keep, bf16_set(exponent))};
    return out;
  }
  const bool fp4 =
      info.tensor_class == TensorClass::expert && config_.expert_dtype == formats::ExpertDType::fp4;
  out.block_rows = fp4 ? 1 : config_.quantization_config.block_rows;
  out.block_columns = fp4 ? 32 : config_.quantization_config.block_columns;
  if (fp4) {
    out.weight = {DType::i8, {out.rows, out.columns / 2}, fill(name, count / 2, ~uint64_t{0}, 0)};
  } else {
    // e4m3: exponent field 6 or 7, magnitudes in [0.5, 2).
    out.weight = {DType::f8_e4m3, info.shape,
                  fill(name, count, 0x8F8F'8F8F'8F8F'8F8F, 0x3030'3030'3030'3030)};
  }
  const tensor::Shape scales = {(out.rows + out.block_rows - 1) / out.block_rows,
                                (out.columns + out.block_columns - 1) / out.block_columns};
  const int exponent = weight_exponent(out.columns, fp4 ? 3.0 : 1.1);
  scale_.assign(static_cast<size_t>(tensor::num_elements(scales)),
                static_cast<std::byte>(exponent + 127));
  out.scale = {DType::f8_e8m0, scales, scale_.data()};
  return out;
}

// Of a matrix that is taken in pieces (wo_a), no piece is more than half.
void RandomWeights::release(const tensor::TensorView& view) const {
  const int64_t num_bytes = view.num_bytes();
  if (view.data == weight_.data() && num_bytes > kKeptBytes && 2 * num_bytes > weight_.size())
    weight_ = device::Buffer();
}

Result<std::vector<int32_t>> RandomWeights::expert_ids(const std::string& name) const {
  const auto found = inventory_.find(name);
  if (found == inventory_.end())
    return not_found(name + ": expected a table of the config, found none");
  const int64_t rows = found->second.shape[0], k = found->second.shape[1];
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(rows * k));
  for (int64_t row = 0; row < rows; ++row) {
    // k different experts: a run around the ring, from a keyed start.
    RngStream rng(seed_, RngPurpose::weights, static_cast<uint64_t>(row));
    const int64_t start = rng.next_u32() % config_.n_routed_experts;
    for (int64_t i = 0; i < k; ++i)
      ids.push_back(static_cast<int32_t>((start + i) % config_.n_routed_experts));
  }
  return ids;
}

}  // namespace cachalot::model
