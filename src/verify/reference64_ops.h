// The arithmetic of reference64: weights in float64, products, norms and rotations at both levels,
// and how far an fp32 evaluation of each may lie.
// Threads  one owner.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "verify/reference64.h"

namespace cachalot::verify {

// Unit roundoff of fp32: the relative error of one operation.
inline constexpr double kUnit = 0x1p-24;
// An fp32 evaluation of exp, sigmoid or 1/sqrt errs by less than this, relatively.
inline constexpr double kFunction = 4 * kUnit;
// A sum of n squares runs in 16 chains or more: every term passes so many additions, and none
// cancel.
inline double square_sum_error(int64_t n) { return (static_cast<double>(n) / 16.0 + 5.0) * kUnit; }
// The error of fp32 additions is at most kUnit times the sum of the magnitudes of all partial sums.
// They are those of a chain in ascending order; adding pairs of products, the second first, has up
// to three times as much.
inline constexpr double kChain = 3 * kUnit;

// Values in place: reference/forward 0.4 (a scale per block of `block`, or of 32), 0.8.
double bf16(double x);
void snap_fp8(double* x, int64_t n, int64_t block);
void snap_fp4(double* x, int64_t n);
void hadamard(double* x, int64_t n);
// y += one row's products with num_rows rows of w; bound likewise, or null.
void multiply(const double* x, const Mat& w, int64_t first_row, int64_t num_rows, double* y,
              double* bound);
// 0, step, 2 * step, ...: positions of rows, or of entries.
std::vector<int64_t> positions(int64_t count, int64_t step = 1);
// order: candidates, best first, of which `kept` are taken.
Choice choice_of(const std::vector<double>& scores, const std::vector<int64_t>& order,
                 int64_t kept);

// A result whose fp32 evaluations lie within `bound` of it; the bound is there for an observer
// alone.
struct Bounded {
  Mat value;
  Mat bound;
  Bounded(int64_t rows, int64_t columns, bool bounded)
      : value(rows, columns), bound(bounded ? rows : 0, bounded ? columns : 0) {}
  explicit Bounded(Mat exact) : value(std::move(exact)), bound(value.rows, value.columns) {}
};

class Ops64 {
 public:
  Ops64(const formats::ModelConfig& config, const model::WeightProvider& source, bool official,
        Reference64Observer* observer)
      : observer_(observer), c_(config), source_(source), official_(official) {}

  bool official() const { return official_; }
  bool is_observed() const { return observer_ != nullptr; }
  Reference64Observer* observer() { return observer_; }
  // The first weight that could not be read.
  const Status& status() const { return status_; }

  double round(double x) const { return official_ ? bf16(x) : x; }
  Bounded bounded(int64_t rows, int64_t columns) const { return {rows, columns, is_observed()}; }
  // The op's result: rounded to bf16 where it is, and what an observer puts in its place.
  Mat settle(std::string_view name, Bounded y, bool rounds, std::span<const int64_t> tokens = {});
  // A matrix, or a vector as one row; [1, 1] where it cannot be read.
  const Mat& weight(const std::string& name, bool vector = false);
  const double* vector(const std::string& name) { return weight(name, true).row(0); }
  const std::vector<int32_t>& expert_ids(const std::string& name);
  // Rows of y from first_row on, of the rows of x from there on: LIN8, LIN4 or LINB by what the
  // weight is, before the rounding.
  void multiply_rows(const Mat& x, int64_t first_row, int64_t num_rows, const std::string& name,
                     Bounded& y);
  // LINF where keep_f32.
  Mat linear(std::string_view op, const Mat& x, const std::string& name, bool keep_f32 = false,
             std::span<const int64_t> tokens = {});
  Mat rms_norm(std::string_view op, const Mat& x, const std::string& name,
               std::span<const int64_t> tokens = {});
  // reference/forward 0.7: the last rope_dim values of every head of row t, at positions[t].
  Mat rotate(std::string_view op, Mat x, int64_t heads, std::span<const int64_t> positions,
             bool compressed, bool inverse, std::span<const int64_t> tokens = {});

 private:
  const Mat& fail(const Status& status, Mat& out);
  std::vector<float> rope_frequencies(bool compressed) const;

  Reference64Observer* observer_;
  const formats::ModelConfig& c_;
  const model::WeightProvider& source_;
  bool official_;
  Status status_;
  std::map<std::string, Mat> weights_;
  std::vector<std::string> quantised_;
  std::map<std::string, std::vector<int32_t>> tables_;
};

}  // namespace cachalot::verify
