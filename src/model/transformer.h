// The model, written once: embedding, decoder layers (mHC around attention, mHC around the FFN),
// head, and the MTP blocks.
// Source  reference/forward 2 - 6.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "autograd/tape.h"
#include "device/exec_context.h"
#include "formats/config.h"
#include "model/forward_batch.h"
#include "model/precision.h"
#include "model/training_terms.h"
#include "model/weights.h"

namespace cachalot::model {

// Sees intermediate results as they are made: what verify compares and what monitors count.
// Pointers are valid during the call.
class ForwardProbe {
 public:
  virtual ~ForwardProbe() = default;
  // After layer: streams [rows, hc_mult, hidden_size].
  virtual void on_streams(int64_t layer, const float* streams, int64_t rows) {
    (void)layer, (void)streams, (void)rows;
  }
  // ids, weights [rows, num_experts_per_tok], ids ascending within a row.
  virtual void on_router(int64_t layer, const int32_t* ids, const float* weights, int64_t rows) {
    (void)layer, (void)ids, (void)weights, (void)rows;
  }
  // The indexer's entries [rows, index_topk], ascending, unused places -1.
  virtual void on_selection(int64_t layer, const int32_t* selected, int64_t rows) {
    (void)layer, (void)selected, (void)rows;
  }
  // The result of any op, by the name it has in verify/reference64: values [rows, columns].
  virtual void on_op(std::string_view name, const float* values, int64_t rows, int64_t columns,
                     int64_t stride) {
    (void)name, (void)values, (void)rows, (void)columns, (void)stride;
  }
};

struct Boundary;
struct Step;

class Transformer {
 public:
  // The source must outlive the model (the embedding table stays a view into it), and so must the
  // store (weights.h).
  static Result<Transformer> create(device::ExecContext& ctx, formats::ModelConfig config,
                                    const WeightProvider& source, Precision precision,
                                    PackedStore* store = nullptr);

  const formats::ModelConfig& config() const { return config_; }
  const Precision& precision() const { return precision_; }
  const ModelWeights& weights() const { return *weights_; }
  ModelWeights& weights() { return *weights_; }  // the trainer packs them anew after every step
  int64_t num_streams() const;                   // hc_mult, or 1 with plain residuals

  // Runs all decoder layers and writes the sequences' cache rows.
  // streams out: [tokens, num_streams, hidden_size], after the last layer.
  // Numerics  a row's bits depend on its own sequence's tokens alone: not on the other sequences,
  //           on how the tokens were cut into calls, or on the thread count.
  void forward(device::ExecContext& ctx, const ForwardBatch& batch, float* streams,
               ForwardProbe* probe = nullptr) const;
  // The same, recorded: everything that backward reads is taken from ctx.exec.arena and stays there
  // after the call. `streams` is where the embedding goes, storage of the tape; returns the streams
  // after the last layer, which lie elsewhere.
  const float* forward(autograd::Context ctx, const ForwardBatch& batch, float* streams,
                       ForwardProbe* probe, TrainingTerms* terms) const;

  // Makes the rings of one sequence whose compressed rows are cached: the window and tail rows that
  // the position after the batch's last goes on from. Of every layer only the rows run that a later
  // one still needs: the last num_ring_rows (at least sliding_window) in the last layer, and
  // sliding_window - 1 more in each layer before it, as far as the batch has them; max_piece at a
  // time. The rings hold zeros before, unless the batch starts at position 0.
  // Source  reference/infrastructure 8.2.
  void rebuild_rings(device::ExecContext& ctx, const ForwardBatch& batch, int64_t num_ring_rows,
                     int64_t max_piece) const;

  // One decoder layer alone, over streams [tokens, num_streams, hidden_size] that are given: in
  // place. Writes that layer's cache rows. For checks that must not pass on what the layers before
  // it have left.
  void forward_layer(device::ExecContext& ctx, int64_t layer, const ForwardBatch& batch,
                     float* streams, ForwardProbe* probe) const;

  // The chosen rows' logits [rows.size(), vocab_size].
  void logits(autograd::Context ctx, const float* streams, std::span<const int64_t> rows,
              float* logits, ForwardProbe* probe = nullptr) const;

  // MTP block `depth`: batch.tokens[i] is the token AFTER the one whose streams stand in row i of
  // streams_in [tokens, num_streams, hidden_size] (the main model's, or the block's own for a
  // longer draft); positions are those of the streams. Writes the block's own streams, from which
  // mtp_logits drafts the token after that.
  // Source  reference/forward 5.1, 5.2. The embedding at position 0 is not zeroed (5.2: two engines
  //         zero it).
  void mtp_forward(device::ExecContext& ctx, int64_t depth, const ForwardBatch& batch,
                   const float* streams_in, float* streams_out,
                   ForwardProbe* probe = nullptr) const;
  const float* mtp_forward(autograd::Context ctx, int64_t depth, const ForwardBatch& batch,
                           const float* streams_in, float* streams_out, ForwardProbe* probe,
                           TrainingTerms* terms) const;
  void mtp_logits(autograd::Context ctx, int64_t depth, const float* streams,
                  std::span<const int64_t> rows, float* logits,
                  ForwardProbe* probe = nullptr) const;

 private:
  Transformer() = default;
  Step new_step(autograd::Context ctx, const ForwardBatch& batch, ForwardProbe* probe,
                TrainingTerms* terms) const;
  // boundary null: to `streams`.
  void embed_streams(Step& step, const Boundary* boundary, float* streams) const;
  void head_logits(autograd::Context ctx, const std::optional<HyperWeights>& hc_head,
                   const std::vector<float>& norm, const float* streams,
                   std::span<const int64_t> rows, float* logits, ForwardProbe* probe) const;

  formats::ModelConfig config_;
  std::vector<formats::LayerConfig> layers_;  // decoder layers, then MTP blocks
  Precision precision_;
  std::unique_ptr<ModelWeights> weights_;
  std::vector<float> plain_frequencies_;
  std::vector<float> compressed_frequencies_;
};

}  // namespace cachalot::model
