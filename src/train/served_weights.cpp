#include "train/served_weights.h"

#include "base/check.h"
#include "formats/block_quantize.h"

namespace cachalot::train {
namespace {

constexpr char kEmbedding[] = "embed.weight";
constexpr int64_t kBlock = 128;
constexpr int64_t kGroup = 32;

int64_t blocks(int64_t n) { return (n + kBlock - 1) / kBlock; }

std::span<uint8_t> codes_of(std::vector<std::byte>& bytes) {
  return {reinterpret_cast<uint8_t*>(bytes.data()), bytes.size()};
}

tensor::TensorView floats_view(const formats::TensorInfo& info, const std::vector<float>& values) {
  return {tensor::DType::f32, info.shape, reinterpret_cast<const std::byte*>(values.data())};
}

}  // namespace

ServedWeights::ServedWeights(const ParameterStore& parameters, TrainingPrecision precision)
    : parameters_(parameters),
      precision_(precision),
      embedding_(parameters.find(kEmbedding)->master) {}

const std::byte* ServedWeights::hold(std::vector<std::byte> bytes) const {
  const std::byte* data = bytes.data();
  held_.emplace(data, std::move(bytes));
  return data;
}

void ServedWeights::release(const tensor::TensorView& view) const {
  const auto found = held_.find(view.data);
  // A piece of a matrix: others follow.
  if (found != held_.end() && static_cast<int64_t>(found->second.size()) == view.num_bytes())
    held_.erase(found);
}

Result<tensor::TensorView> ServedWeights::tensor(const std::string& name) const {
  const Parameter* parameter = parameters_.find(name);
  CACHALOT_CHECK_MSG(parameter != nullptr, name);
  if (name == kEmbedding) return floats_view(parameter->info, embedding_);
  if (prepared_format(precision_, parameter->info) == PreparedFormat::f32)
    return floats_view(parameter->info, parameter->master);
  std::vector<std::byte> bytes(parameter->master.size() * 2);
  formats::encode_bf16(parameter->master, bytes);
  return tensor::TensorView{tensor::DType::bf16, parameter->info.shape, hold(std::move(bytes))};
}

Result<tensor::QuantTensor> ServedWeights::matrix(const std::string& name) const {
  const Parameter* parameter = parameters_.find(name);
  CACHALOT_CHECK_MSG(parameter != nullptr, name);
  const PreparedFormat format = prepared_format(precision_, parameter->info);
  tensor::QuantTensor out;
  const int64_t rows = out.rows = parameter->info.shape[0];
  const int64_t columns = out.columns = parameter->info.shape[1];
  if (format == PreparedFormat::f32 || format == PreparedFormat::bf16) {
    CACHALOT_ASSIGN_OR_RETURN(out.weight, tensor(name));
    return out;
  }
  const bool is_fp4 = format == PreparedFormat::fp8_of_fp4;
  out.block_rows = is_fp4 ? 1 : kBlock;
  out.block_columns = is_fp4 ? kGroup : kBlock;
  const tensor::Shape codes_shape = {rows, is_fp4 ? columns / 2 : columns};
  const tensor::Shape scales_shape =
      is_fp4 ? tensor::Shape{rows, columns / kGroup} : tensor::Shape{blocks(rows), blocks(columns)};
  std::vector<std::byte> codes(static_cast<size_t>(tensor::num_elements(codes_shape)));
  std::vector<std::byte> scales(static_cast<size_t>(tensor::num_elements(scales_shape)));
  formats::QuantizeCounts counts;
  const Status status =
      is_fp4 ? formats::quantize_fp4_groups(parameter->master, rows, columns, {}, codes_of(codes),
                                            codes_of(scales), &counts)
             : formats::quantize_fp8_blocks(parameter->master, rows, columns, kBlock, kBlock, {},
                                            codes_of(codes), codes_of(scales), &counts);
  if (!status.ok()) return Status(status.code(), name + ": " + status.message());
  out.weight = {is_fp4 ? tensor::DType::i8 : tensor::DType::f8_e4m3, codes_shape,
                hold(std::move(codes))};
  out.scale = {tensor::DType::f8_e8m0, scales_shape, hold(std::move(scales))};
  return out;
}

Result<std::vector<int32_t>> ServedWeights::expert_ids(const std::string& name) const {
  return parameters_.expert_ids(name);
}

}  // namespace cachalot::train
