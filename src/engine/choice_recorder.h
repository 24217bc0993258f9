// Hands the choices that a forward pass makes to the answers that asked for them.
#pragma once

#include <vector>

#include "engine/generation.h"

namespace cachalot::engine {

class ChoiceRecorder : public model::ForwardProbe {
 public:
  explicit ChoiceRecorder(const formats::ModelConfig& config) : config_(config) {}

  void clear() { wanting_.clear(); }
  bool is_empty() const { return wanting_.empty(); }
  // The planned rows of `generation` start at `first_row` of the step.
  void add(Generation* generation, int64_t first_row) {
    wanting_.push_back({generation, first_row});
  }

  void on_router(int64_t layer, const int32_t* ids, const float*, int64_t) override {
    give(&model::Choices::experts, layer, ids, config_.num_experts_per_tok);
  }
  void on_selection(int64_t layer, const int32_t* selected, int64_t) override {
    give(&model::Choices::selected, layer, selected, config_.index_topk);
  }

 private:
  struct Wanting {
    Generation* generation;
    int64_t first_row;
  };
  void give(std::vector<std::vector<int32_t>> model::Choices::*kind, int64_t layer,
            const int32_t* values, int64_t width) {
    for (const Wanting& one : wanting_)
      one.generation->take_choices(kind, layer, values + one.first_row * width, width);
  }

  const formats::ModelConfig& config_;
  std::vector<Wanting> wanting_;
};

}  // namespace cachalot::engine
