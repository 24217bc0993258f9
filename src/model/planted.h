// Where the fault suite bends results that an op has already made; nothing in every other build.
// See base/faults.h.
#pragma once

#include "model/linear.h"
#include "model/step.h"
#include "ops/hyper/hyper_connection.h"
#include "ops/rope/rope.h"

namespace cachalot::model {

// A stored matrix as a faulty loader would read it.
class BentWeight {
 public:
#ifdef CACHALOT_FAULTS
  explicit BentWeight(const tensor::QuantTensor& stored);
#else
  explicit BentWeight(const tensor::QuantTensor& stored) : tensor_(stored) {}
#endif
  const tensor::QuantTensor& tensor() const { return tensor_; }

 private:
  tensor::QuantTensor tensor_;
#ifdef CACHALOT_FAULTS
  std::vector<float> values_;
  std::vector<std::byte> bytes_;
#endif
};

#ifdef CACHALOT_FAULTS
void bend_hyper_split(const ops::HyperSplitParams& p);
void bend_routing(const Step& step, const FfnWeights& weights, Matrix logits, const int32_t* ids,
                  float* expert_weights);
void bend_rope_table(ops::RopeTable table, int64_t n);
#else
inline void bend_hyper_split(const ops::HyperSplitParams&) {}
inline void bend_routing(const Step&, const FfnWeights&, Matrix, const int32_t*, float*) {}
inline void bend_rope_table(ops::RopeTable, int64_t) {}
#endif

}  // namespace cachalot::model
