// A pass of the model, op by op, against float64 fed with the same inputs.
// A difference that an fp32 sum explains shows at one op and is compared there: what an op makes of
// equal inputs lies within the rounding of the bound, and every op's inputs are the model's own.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "verify/reference64.h"

namespace cachalot::verify {

// Keeps what the model makes, by the op's name in the order of calls. For one sequence.
class OpRecorder : public model::ForwardProbe {
 public:
  explicit OpRecorder(const formats::ModelConfig& config) : config_(config) {}
  void on_op(std::string_view name, const float* values, int64_t rows, int64_t columns,
             int64_t stride) override;
  void on_router(int64_t layer, const int32_t* ids, const float* weights, int64_t rows) override;
  void on_selection(int64_t layer, const int32_t* selected, int64_t rows) override;

  // The op's results, a call each; empty where it was never made.
  const std::vector<Mat>& results(std::string_view name) const;
  // The candidates taken, a token each, ascending: "routing" and "selection".
  const std::vector<std::vector<int64_t>>& choices(std::string_view name) const;

 private:
  void add_choice(const char* name, const int32_t* first, int64_t count);
  const formats::ModelConfig& config_;
  std::map<std::string, std::vector<Mat>, std::less<>> results_;
  std::map<std::string, std::vector<std::vector<int64_t>>, std::less<>> choices_;
};

// Compares a float64 pass with the record, and puts the record's results in its place. A pass on a
// GPU's FP8 cores has fewer ops, since its kernels hold several, which it is not asked about; nor
// about products, whose bounds are their kernels' tests'. Of what is left up to a tenth may lie
// outside: bf16 cores cut 17 addends at 2^-23, which turns up to 6 % of roundings to bf16.
class OpComparison : public Reference64Observer {
 public:
  explicit OpComparison(const OpRecorder& record, bool on_fp8_cores = false)
      : record_(record), on_fp8_cores_(on_fp8_cores) {}
  void on_op(const Op& op, Mat& value) override;
  void on_choice(std::string_view name, int64_t token, std::span<const double> lo,
                 std::span<const double> hi, std::vector<int64_t>& taken) override;

  // Ops with values outside what fp32 may give, one text each; empty if the pass is explained.
  std::vector<std::string> failures() const;
  int64_t num_values() const { return num_values_; }
  int64_t num_turned() const { return num_turned_; }  // roundings that fell the other way
  int64_t num_choices() const { return num_choices_; }
  int64_t num_choices_turned() const { return num_choices_turned_; }

  // Of the last op's last row: the length of its bounds, as a share of the row's.
  double last_bound() const { return last_bound_; }

  // The first op at which the token's bits part from float64's, or by which they could: an edge or
  // a choice lies within the bound. Of what other tokens read of it where shared_only.
  const std::string* first_turned(int64_t token, bool shared_only) const;
  const std::string* first_edge(int64_t token, bool shared_only) const;

 private:
  struct Firsts {
    std::string turned, edge;
  };
  struct Failure {
    int64_t count = 0;
    int64_t of = 0;  // values of the op
    std::string first;
  };
  static void note(std::map<int64_t, Firsts>& firsts, int64_t token, std::string_view op,
                   bool turned);
  void fail(std::string_view op, std::string detail);

  const OpRecorder& record_;
  bool on_fp8_cores_;
  std::map<std::string, size_t, std::less<>> num_calls_;
  std::map<std::string, Failure, std::less<>> failures_;
  std::map<int64_t, Firsts> own_, shared_;
  double last_bound_ = 0;
  int64_t num_values_ = 0, num_turned_ = 0, num_choices_ = 0, num_choices_turned_ = 0;
};

}  // namespace cachalot::verify
