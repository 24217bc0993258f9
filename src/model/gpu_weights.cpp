#include "model/gpu_weights.h"

namespace cachalot::model {

Status place_weights(device::Gpu& gpu, ModelWeights& weights) {
  weights.twins = std::make_unique<device::ConstantTwins>(gpu);
  device::ConstantTwins& twins = *weights.twins;
  for (const WeightSlot& slot : weights.slots) {
    if (slot.matrix != nullptr) {
      CACHALOT_RETURN_IF_ERROR(slot.matrix->move_to(gpu));
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
