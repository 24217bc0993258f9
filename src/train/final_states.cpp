#include "train/final_states.h"

#include "train/forward_loss.h"

namespace cachalot::train {
namespace {

// The norm that follows the last layer.
class FinalNorm : public model::ForwardProbe {
 public:
  explicit FinalNorm(int64_t num_layers) : num_layers_(num_layers) {}
  void on_streams(int64_t layer, const float*, int64_t) override {
    is_behind_layers_ = layer + 1 == num_layers_;
  }
  void on_op(std::string_view name, const float* values, int64_t rows, int64_t columns,
             int64_t stride) override {
    if (!is_behind_layers_ || name != "norm") return;
    for (int64_t row = 0; row < rows; ++row)
      states.insert(states.end(), values + row * stride, values + row * stride + columns);
  }
  std::vector<float> states;

 private:
  int64_t num_layers_;
  bool is_behind_layers_ = false;
};

class NoLoss : public LogitsLoss {
 public:
  void add(autograd::Context, const Lot&) override {}
};

}  // namespace

std::vector<float> final_states(device::ExecContext& ctx, const model::Transformer& model,
                                std::span<const Sample> samples, model::TrainingTerms* terms) {
  FinalNorm probe(model.config().num_hidden_layers);
  NoLoss loss;
  forward_loss(ctx, model, samples, loss, terms, &probe);
  return std::move(probe.states);
}

}  // namespace cachalot::train
