// A model's weights on a GPU.
#pragma once

#include "device/gpu.h"
#include "model/weights.h"

namespace cachalot::model {

// Packed matrices move there, streamed where fp8_cores says so and shapes fit, else in their own
// bytes; vectors, hash tables and the embedding get twins.
// resource_exhausted.
Status place_weights(device::Gpu& gpu, ModelWeights& weights, bool fp8_cores);

}  // namespace cachalot::model
