// What the parts of one forward call share. Internal to model/.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "autograd/tape.h"
#include "device/exec_context.h"
#include "formats/config.h"
#include "model/forward_batch.h"
#include "model/precision.h"
#include "model/training_terms.h"
#include "model/transformer.h"
#include "ops/matmul/laid_weights.h"
#include "ops/rope/rope.h"
#include "ops/rows/together.h"

namespace cachalot::model {

struct Selection {  // an indexer's picks for every row of the batch: [rows, index_topk], [rows]
  int32_t* selected = nullptr;
  int32_t* num_selected = nullptr;
};

struct Step {
  device::ExecContext& exec;
  const formats::ModelConfig& config;
  const Precision& precision;
  ForwardBatch batch;  // its tables have twins where a GPU reads them
  ForwardProbe* probe;
  autograd::Tape* tape;  // null: nothing is recorded
  TrainingTerms* terms;  // null outside training
  int64_t rows;          // tokens of the batch
  const std::vector<float>& plain_frequencies;
  const std::vector<float>& compressed_frequencies;
  ops::RopeTable plain_rope;  // of every row
  ops::RopeTable compressed_rope;
  // By layer: the indexer's picks, and the step's encoded KV rows, for the layer itself and for
  // layers that share them.
  Selection* selections;
  tensor::RowBlocks* kv_rows;
  int64_t sublayer_idx = 0;     // of this call
  int64_t block_sublayers = 1;  // recompute: the streams before each so many sublayers stay
  ops::LaidWeights laid = {};   // of this sublayer's products
  std::vector<ops::RowOp> waiting = {};  // for the next ops that run together, of this sublayer

  autograd::Context context() const { return {exec, tape}; }
  // `count` values on the host, as T() makes them.
  template <typename T>
  T* array(int64_t count) const {
    T* values = exec.table<T>(count);
    std::uninitialized_value_construct_n(values, count);
    return values;
  }
  // An array of activations: with a tape, one that has a gradient.
  float* floats(int64_t count) const { return context().floats(count); }
  // The step's rows, which lie in one array, as a block. Its table stays when the Step is gone:
  // backward reads it.
  tensor::RowBlocks one_block(std::byte* data, tensor::RowLayout layout) const {
    auto** blocks = exec.table<std::byte*>(1);
    blocks[0] = data;
    return {blocks, rows, layout};
  }
  void run_waiting_with(ops::Together& together) {
    for (const ops::RowOp& op : waiting) together.add(op);
    waiting.clear();
  }
  // The forward pass is done with this tensor: backward makes it again if the plan says so.
  void recompute(Recomputed which, const float* values) const {
    if (tape != nullptr && terms != nullptr && terms->recompute.has(which)) tape->recompute(values);
  }
};

// Values of a context's memory where the host reads them: themselves, or a copy of a GPU's.
template <typename T>
class OnHost {
 public:
  OnHost(const device::ExecContext& ctx, const T* values, int64_t count) : values_(values) {
    if (ctx.gpu == nullptr) return;
    copy_.resize(static_cast<size_t>(count));
    ctx.gpu->copy(copy_.data(), values, count * static_cast<int64_t>(sizeof(T)));
    values_ = copy_.data();
  }
  const T* data() const { return values_; }

 private:
  std::vector<T> copy_;
  const T* values_;
};

// Releases what a part of the step has allocated; a tape reads it again, and so keeps it.
class StepScope {
 public:
  explicit StepScope(const autograd::Context& ctx) {
    if (ctx.tape == nullptr) scope_.emplace(*ctx.exec.arena);
  }

 private:
  std::optional<device::ArenaScope> scope_;
};

}  // namespace cachalot::model
