// Where a model's weights go on a GPU: each matrix as it is read, in the one form that its products
// read. The host keeps no packed bytes, and the GPU no others.
#pragma once

#include "device/exec_context.h"
#include "model/weights.h"

namespace cachalot::model {

class GpuPlace {
 public:
  // ctx has a GPU. fp8_cores: matrices whose shapes fit are streamed for its FP8 cores.
  GpuPlace(device::ExecContext& ctx, bool fp8_cores) : ctx_(ctx), fp8_cores_(fp8_cores) {}

  // A form other than panels counts where it can be had. Errors: PackedWeight's.
  Result<ops::PackedWeight> pack(const tensor::QuantTensor& tensor, ops::PackedWeight::OnGpu form);
  // One of num_matrices of a layer's routed experts; then finish_experts().
  Result<ops::PackedWeight> pack_expert(const tensor::QuantTensor& tensor, int64_t num_matrices);
  // Streams the layer's, where shapes fit: their bytes go from its matrices into ffn.streamed.
  Status finish_experts(FfnWeights& ffn);

 private:
  device::ExecContext& ctx_;
  bool fp8_cores_;
  // The panels of a layer's experts, until they are streamed.
  device::Buffer panels_;
  int64_t panels_used_ = 0;
};

// What load_weights() loads, in the memory of ctx's GPU. Matrices are streamed for its FP8 cores
// where fp8_cores says so and shapes fit. The store takes none; it knows the weights' fingerprint
// afterwards.
Result<std::unique_ptr<ModelWeights>> load_weights_on_gpu(device::ExecContext& ctx,
                                                          const formats::ModelConfig& config,
                                                          const WeightProvider& source,
                                                          PackedStore* store, bool fp8_cores);

// Gives the loaded model's vectors, hash tables and embedding their twins. resource_exhausted.
Status place_constants(device::Gpu& gpu, ModelWeights& weights);

}  // namespace cachalot::model
