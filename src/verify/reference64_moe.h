// The feed-forward part of reference64: routed and shared experts, or a dense one.
// Source  reference/forward 4.
// Threads  one owner.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "verify/reference64_ops.h"

namespace cachalot::verify {

class Moe64 {
 public:
  // What was chosen goes to `result`.
  Moe64(const formats::ModelConfig& config, Ops64& ops, Reference64Result& result)
      : c_(config), layers_(formats::layer_configs(config)), ops_(ops), result_(result) {}

  // reference/forward 4.
  Mat ffn(const std::string& prefix, int64_t layer_idx, const Mat& x,
          std::span<const int32_t> tokens);

 private:
  // Rows [first_row, ...) of x that one expert works on.
  struct ExpertRows {
    std::string prefix;
    int64_t first_row;
    int64_t num_rows;
  };
  // weights of the rows, or null.
  Mat experts(const std::string& op, const std::vector<ExpertRows>& groups, const Mat& x,
              const double* weights, std::span<const int64_t> tokens);
  // The experts of every row, ascending, and their weights.
  struct Routes {
    std::vector<std::vector<int64_t>> ids;
    Mat weights;
  };
  Routes route(const std::string& prefix, int64_t layer_idx, const Mat& x,
               std::span<const int32_t> tokens);
  // Adds the routed experts' rows to out.value, and their magnitudes to out.bound.
  void add_routed(const std::string& prefix, int64_t layer_idx, const Mat& x,
                  std::span<const int32_t> tokens, Bounded& out);

  const formats::ModelConfig& c_;
  std::vector<formats::LayerConfig> layers_;
  Ops64& ops_;
  Reference64Result& result_;
  const std::vector<int32_t> no_ids_;
};

}  // namespace cachalot::verify
