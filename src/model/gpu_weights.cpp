#include "model/gpu_weights.h"

#include "ops/matmul/pack_on_gpu.h"

namespace cachalot::model {
namespace {

using ops::PackedWeight;
constexpr int64_t kAlignment = 256;

// The shape and format alone.
PackedWeight without_bytes(const PackedWeight& w) {
  constexpr int64_t kGroup = ops::scale_group(ops::WeightFormat::fp4);
  const std::byte none{};
  const tensor::QuantTensor tensor{
      {tensor::DType::i8, {w.rows(), w.columns() / 2}, &none},
      {tensor::DType::f8_e8m0, {w.rows(), (w.columns() + kGroup - 1) / kGroup}, &none},
      w.rows(),
      w.columns(),
      1,
      kGroup};
  return PackedWeight::packed_at(tensor, false, nullptr).value();
}

}  // namespace

Result<PackedWeight> GpuPlace::pack(const tensor::QuantTensor& tensor, PackedWeight::OnGpu form) {
  constexpr int64_t kMaxColumns = 32768;  // a row lies in shared memory
  const device::ArenaScope scope(*ctx_.arena);
  CACHALOT_ASSIGN_OR_RETURN(const int64_t num_bytes, PackedWeight::packed_bytes(tensor));
  constexpr int64_t kScratchBytes = int64_t{64} << 20;  // that the arena may keep
  device::Buffer large;
  if (num_bytes > kScratchBytes) {
    CACHALOT_ASSIGN_OR_RETURN(large, device::Buffer::create(num_bytes, ctx_.gpu));
  }
  std::byte* panels = large.size() > 0 ? large.data() : ctx_.arena->allocate<std::byte>(num_bytes);
  CACHALOT_ASSIGN_OR_RETURN(PackedWeight w, ops::pack_on_gpu(ctx_, tensor, panels));
  const bool streams = fp8_cores_ && w.can_stream() && w.columns() <= kMaxColumns;
  CACHALOT_RETURN_IF_ERROR(w.move_to(*ctx_.gpu, streams ? form : PackedWeight::OnGpu::panels));
  return w;
}

Result<PackedWeight> GpuPlace::pack_expert(const tensor::QuantTensor& tensor,
                                           int64_t num_matrices) {
  if (!fp8_cores_ || !tensor.is_fp4()) return pack(tensor, PackedWeight::OnGpu::panels);
  CACHALOT_ASSIGN_OR_RETURN(int64_t num_bytes, PackedWeight::packed_bytes(tensor));
  num_bytes = (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (panels_used_ == 0) {
    CACHALOT_ASSIGN_OR_RETURN(panels_, device::Buffer::create(num_matrices * num_bytes, ctx_.gpu));
  }
  if (panels_used_ + num_bytes > panels_.size()) return pack(tensor, PackedWeight::OnGpu::panels);
  panels_used_ += num_bytes;
  return ops::pack_on_gpu(ctx_, tensor, panels_.data() + panels_used_ - num_bytes);
}

Status GpuPlace::finish_experts(FfnWeights& ffn) {
  constexpr size_t kMaxExperts = 512;
  if (panels_used_ == 0) return {};
  panels_used_ = 0;
  const device::Buffer panels = std::move(panels_);  // until the end
  const auto keep_panels = [&]() -> Status {
    for (ExpertWeights& expert : ffn.experts) {
      for (PackedWeight* weight : {&expert.w1, &expert.w3, &expert.w2})
        CACHALOT_RETURN_IF_ERROR(weight->move_to(*ctx_.gpu));
    }
    return {};
  };
  if (ffn.experts.size() > kMaxExperts ||
      !ops::StreamedExperts::can_stream(ffn.experts[0].w1, ffn.experts[0].w2)) {
    return keep_panels();
  }
  const auto all = [&](PackedWeight ExpertWeights::*weight) {
    return ops::ExpertWeightsRef{&(ffn.experts[0].*weight), sizeof(ExpertWeights)};
  };
  Result<ops::StreamedExperts> streamed = ops::StreamedExperts::create(
      *ctx_.gpu, all(&ExpertWeights::w1), all(&ExpertWeights::w3), all(&ExpertWeights::w2),
      static_cast<int64_t>(ffn.experts.size()));
  if (!streamed && streamed.error().code() == StatusCode::unsupported) return keep_panels();
  if (!streamed) return streamed.error();
  ffn.streamed = std::make_unique<ops::StreamedExperts>(std::move(*streamed));
  for (ExpertWeights& expert : ffn.experts) {
    for (PackedWeight* weight : {&expert.w1, &expert.w3, &expert.w2})
      *weight = without_bytes(*weight);
  }
  return {};
}

Status place_constants(device::Gpu& gpu, ModelWeights& weights) {
  weights.twins = std::make_unique<device::ConstantTwins>(gpu);
  device::ConstantTwins& twins = *weights.twins;
  for (const WeightSlot& slot : weights.slots) {
    if (slot.values != nullptr)
      CACHALOT_RETURN_IF_ERROR(twins.add(std::span<const float>(*slot.values)));
  }
  for (const LayerWeights& layer : weights.layers)
    CACHALOT_RETURN_IF_ERROR(twins.add(std::span<const int32_t>(layer.ffn.tid2eid)));
  for (const MtpWeights& block : weights.mtp)
    CACHALOT_RETURN_IF_ERROR(twins.add(std::span<const int32_t>(block.layer.ffn.tid2eid)));
  return twins.add(weights.embed.bytes());
}

}  // namespace cachalot::model
