#include "model/gpu_weights.h"

#include <map>
#include <set>

namespace cachalot::model {
namespace {

using OnGpu = ops::PackedWeight::OnGpu;
using Forms = std::map<const ops::PackedWeight*, OnGpu>;

void stream(Forms& forms, const ops::PackedWeight& weight, OnGpu form = OnGpu::streamed) {
  constexpr int64_t kMaxColumns = 32768;  // a row lies in shared memory
  if (weight.can_stream() && weight.columns() <= kMaxColumns) forms[&weight] = form;
}

// The products of LIN8, and wo_a's.
void stream_dense(Forms& forms, const LayerWeights& layer) {
  const AttentionWeights& attn = layer.attn;
  for (const auto* weight : {&attn.wq_a, &attn.wq_b, &attn.wo_b}) stream(forms, *weight);
  if (attn.wkv) stream(forms, *attn.wkv);
  if (attn.indexer) stream(forms, attn.indexer->wq_b);
  for (const ops::PackedWeight& weight : attn.wo_a) stream(forms, weight, OnGpu::streamed_bf16);
  const ExpertWeights& shared = layer.ffn.shared_experts;
  for (const auto* weight : {&shared.w1, &shared.w3, &shared.w2}) stream(forms, *weight);
}

Status stream_experts(device::Gpu& gpu, FfnWeights& ffn) {
  constexpr size_t kMaxExperts = 512;
  if (ffn.experts.empty() || ffn.experts.size() > kMaxExperts ||
      !ops::StreamedExperts::can_stream(ffn.experts[0].w1, ffn.experts[0].w2))
    return {};
  const auto all = [&](ops::PackedWeight ExpertWeights::*weight) {
    return ops::ExpertWeightsRef{&(ffn.experts[0].*weight), sizeof(ExpertWeights)};
  };
  CACHALOT_ASSIGN_OR_RETURN(ops::StreamedExperts streamed,
                            ops::StreamedExperts::create(
                                gpu, all(&ExpertWeights::w1), all(&ExpertWeights::w3),
                                all(&ExpertWeights::w2), static_cast<int64_t>(ffn.experts.size())));
  ffn.streamed = std::make_unique<ops::StreamedExperts>(std::move(streamed));
  return {};
}

}  // namespace

Status place_weights(device::Gpu& gpu, ModelWeights& weights, bool fp8_cores) {
  Forms forms;
  std::set<const ops::PackedWeight*> in_streamed;
  const auto each_layer = [&](const auto& call) -> Status {
    for (LayerWeights& layer : weights.layers) CACHALOT_RETURN_IF_ERROR(call(layer));
    for (MtpWeights& block : weights.mtp) CACHALOT_RETURN_IF_ERROR(call(block.layer));
    return {};
  };
  if (fp8_cores) {
    CACHALOT_RETURN_IF_ERROR(each_layer([&](LayerWeights& layer) -> Status {
      stream_dense(forms, layer);
      CACHALOT_RETURN_IF_ERROR(stream_experts(gpu, layer.ffn));
      if (layer.ffn.streamed == nullptr) return {};
      for (const ExpertWeights& expert : layer.ffn.experts) {
        for (const auto* weight : {&expert.w1, &expert.w3, &expert.w2}) in_streamed.insert(weight);
      }
      return {};
    }));
    for (const MtpWeights& block : weights.mtp) {
      stream(forms, block.e_proj);
      stream(forms, block.h_proj);
    }
  }
  weights.twins = std::make_unique<device::ConstantTwins>(gpu);
  device::ConstantTwins& twins = *weights.twins;
  for (const WeightSlot& slot : weights.slots) {
    if (slot.matrix != nullptr) {
      if (in_streamed.contains(slot.matrix)) continue;
      const auto form = forms.find(slot.matrix);
      CACHALOT_RETURN_IF_ERROR(
          slot.matrix->move_to(gpu, form == forms.end() ? OnGpu::panels : form->second));
    } else {
      CACHALOT_RETURN_IF_ERROR(twins.add(std::span<const float>(*slot.values)));
    }
  }
  for (const LayerWeights& layer : weights.layers)
    CACHALOT_RETURN_IF_ERROR(twins.add(std::span<const int32_t>(layer.ffn.tid2eid)));
  for (const MtpWeights& block : weights.mtp)
    CACHALOT_RETURN_IF_ERROR(twins.add(std::span<const int32_t>(block.layer.ffn.tid2eid)));
  return twins.add(weights.embed.bytes());
}

}  // namespace cachalot::model
