// Attention of reference64: the window, the compressors, the indexer, and the rows that they leave
// for later layers.
// Source  reference/forward 3.
// Threads  one owner.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "verify/reference64_ops.h"

namespace cachalot::verify {

class Attention64 {
 public:
  // What was chosen goes to `result`.
  Attention64(const formats::ModelConfig& config, Ops64& ops, bool normed_queries,
              Reference64Result& result)
      : c_(config),
        layers_(formats::layer_configs(config)),
        ops_(ops),
        normed_queries_(normed_queries),
        result_(result) {}

  // A layer's, over the rows of a sequence from position 0.
  Mat attention(const std::string& prefix, int64_t layer_idx, const Mat& x);

 private:
  // reference/forward 3.3: all entries of a sequence.
  Mat compressed(const std::string& prefix, const Mat& x, int64_t ratio, int64_t width, bool index);
  // K and S side by side.
  Mat keys_and_scores(const std::string& prefix, const Mat& x, int64_t ratio);
  // Hadamard and SIM4 of every head of `dim`.
  Mat snap_index(const std::string& op, Mat x, int64_t dim, std::span<const int64_t> tokens = {});
  // reference/forward 3.6: the picks of every row, ascending.
  std::vector<std::vector<int64_t>> select(const std::string& prefix, int64_t layer_idx,
                                           const Mat& qn, const Mat& x, int64_t ratio);
  // reference/forward 3.1, in bf16 steps: a mean near an edge has two factors.
  Mat norm_queries(const Mat& q);
  // The rows that token t reads, in the order of its sums.
  Mat keys_of(const formats::LayerConfig& layer, int64_t t, int64_t& num_window);
  // reference/forward 3.7. received: a place for each of the picked entries, or null.
  void attend(const formats::LayerConfig& layer, int64_t t, const double* q, const double* sink,
              Bounded& out, std::vector<double>* received);
  Mat output(const std::string& prefix, const Mat& out);

  const formats::ModelConfig& c_;
  std::vector<formats::LayerConfig> layers_;
  Ops64& ops_;
  bool normed_queries_;
  Reference64Result& result_;
  std::map<int64_t, Mat> kv_, entries_;
  std::map<int64_t, std::vector<std::vector<int64_t>>> picks_;
};

}  // namespace cachalot::verify
