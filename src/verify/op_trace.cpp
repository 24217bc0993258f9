#include "verify/op_trace.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "numeric/formats.h"

namespace cachalot::verify {
namespace {

// Ops whose results other tokens read: the stored rows, and what they are made of (the streams
// before attention; queries come later).
bool is_shared(std::string_view op, size_t call) {
  return op.starts_with("kv") || op.starts_with("compress") ||
         (call == 0 && (op == "hc.pre" || op == "hc.u" || op == "norm")) || op == "enorm" ||
         op == "hnorm" || op == "e_proj" || op == "h_proj" || op == "mtp.streams";
}

// Made by a product on FP8 or bf16 cores that is not rounded, or of what nobody has seen.
bool is_of_cores(std::string_view op) {
  for (const std::string_view one : {"q_a", "q", "kv", "index.q", "wo_b", "gate", "norm", "ffn"})
    if (op == one) return true;
  return op.starts_with("shared.") || op.starts_with("hc.");
}

}  // namespace

void OpRecorder::on_op(std::string_view name, const float* values, int64_t rows, int64_t columns,
                       int64_t stride) {
  Mat result(rows, columns);
  for (int64_t t = 0; t < rows; ++t) std::copy_n(values + t * stride, columns, result.row(t));
  results_[std::string(name)].push_back(std::move(result));
}

void OpRecorder::add_choice(const char* name, const int32_t* first, int64_t count) {
  std::vector<int64_t> taken;
  std::copy_if(first, first + count, std::back_inserter(taken), [](int32_t id) { return id >= 0; });
  choices_[name].push_back(std::move(taken));
}

void OpRecorder::on_router(int64_t, const int32_t* ids, const float*, int64_t rows) {
  const int64_t k = config_.num_experts_per_tok;
  for (int64_t t = 0; t < rows; ++t) add_choice("routing", ids + t * k, k);
}

void OpRecorder::on_selection(int64_t, const int32_t* selected, int64_t rows) {
  const int64_t k = config_.index_topk;
  for (int64_t t = 0; t < rows; ++t) add_choice("selection", selected + t * k, k);
}

const std::vector<Mat>& OpRecorder::results(std::string_view name) const {
  static const std::vector<Mat> kNone;
  const auto at = results_.find(name);
  return at == results_.end() ? kNone : at->second;
}

const std::vector<std::vector<int64_t>>& OpRecorder::choices(std::string_view name) const {
  static const std::vector<std::vector<int64_t>> kNone;
  const auto at = choices_.find(name);
  return at == choices_.end() ? kNone : at->second;
}

void OpComparison::on_op(const Op& op, Mat& value) {
  const size_t call = num_calls_[std::string(op.name)]++;
  const std::vector<Mat>& results = record_.results(op.name);
  if (on_fp8_cores_ && results.empty()) return;
  if (call >= results.size() || results[call].rows != value.rows ||
      results[call].columns != value.columns) {
    return fail(op.name,
                fmt::format("expected [{}, {}], found {}", value.rows, value.columns,
                            call >= results.size() ? "none"
                                                   : fmt::format("[{}, {}]", results[call].rows,
                                                                 results[call].columns)));
  }
  const Mat& found = results[call];
  if (on_fp8_cores_ && is_of_cores(op.name)) {
    value = found;
    return;
  }
  failures_[std::string(op.name)].of += static_cast<int64_t>(value.values.size());
  num_values_ += static_cast<int64_t>(value.values.size());
  const bool shared = is_shared(op.name, call);
  for (int64_t row = 0; row < value.rows; ++row) {
    const int64_t token = op.tokens.empty() ? row : op.tokens[row];
    bool turned = false, edge = false;
    for (int64_t i = 0; i < value.columns; ++i) {
      const double x = found.row(row)[i], lo = op.lo.row(row)[i], hi = op.hi.row(row)[i];
      const bool rounded = !op.is_bf16 || numeric::round_to_bf16(static_cast<float>(x)) == x;
      if (!(x >= lo && x <= hi && rounded)) {
        fail(op.name, fmt::format("at [{}, {}] expected {:.9g} to {:.9g}{}, found {:.9g}", row, i,
                                  lo, hi, rounded ? "" : " in bf16", x));
      }
      if (!op.is_bf16) continue;
      num_turned_ += x != value.row(row)[i];
      turned |= x != value.row(row)[i];
      edge |= lo != hi;
    }
    if (turned || edge) {
      note(own_, token, op.name, turned);
      if (shared) note(shared_, token, op.name, turned);
    }
  }
  double width = 0, length = 0;
  for (int64_t i = 0; i < value.columns; ++i) {
    const double d = op.hi.row(value.rows - 1)[i] - op.lo.row(value.rows - 1)[i];
    width += d * d;
    length += value.row(value.rows - 1)[i] * value.row(value.rows - 1)[i];
  }
  last_bound_ = std::sqrt(width / length);
  value = found;
}

void OpComparison::on_choice(std::string_view name, int64_t token, std::span<const double> lo,
                             std::span<const double> hi, std::vector<int64_t>& taken) {
  const auto& choices = record_.choices(name);
  const auto t = static_cast<size_t>(token);
  if (t >= choices.size() || choices[t].size() != taken.size()) {
    return fail(name, fmt::format("token {}: expected {} candidates, found {}", token, taken.size(),
                                  t >= choices.size() ? 0 : choices[t].size()));
  }
  const std::vector<int64_t>& found = choices[t];
  ++num_choices_;
  std::vector<bool> is_taken(lo.size());
  for (const int64_t e : found) {
    if (e < 0 || static_cast<size_t>(e) >= lo.size() || is_taken[e])
      return fail(name, fmt::format("token {}: candidate {} of {}", token, e, lo.size()));
    is_taken[e] = true;
  }
  // The weakest taken, at its best, against the strongest that was left, at its worst.
  bool edge = false;
  for (const int64_t e : found) {
    for (int64_t other = 0; other < static_cast<int64_t>(lo.size()); ++other) {
      if (is_taken[other]) continue;
      if (hi[e] < lo[other] || (hi[e] == lo[other] && other < e)) {
        fail(name,
             fmt::format("token {}: took {} with at most {:.9g}, left {} with at least {:.9g}",
                         token, e, hi[e], other, lo[other]));
      }
      edge |= lo[e] < hi[other] || (lo[e] == hi[other] && other < e);
    }
  }
  const bool turned = found != taken;
  num_choices_turned_ += turned;
  if (turned || edge) note(own_, token, name, turned);
  taken = found;
}

void OpComparison::note(std::map<int64_t, Firsts>& firsts, int64_t token, std::string_view op,
                        bool turned) {
  Firsts& first = firsts[token];
  if (first.edge.empty()) first.edge = op;
  if (turned && first.turned.empty()) first.turned = op;
}

void OpComparison::fail(std::string_view op, std::string detail) {
  Failure& failure = failures_[std::string(op)];
  if (failure.count++ == 0) failure.first = std::move(detail);
}

std::vector<std::string> OpComparison::failures() const {
  std::vector<std::string> out;
  for (const auto& [op, failure] : failures_) {
    if (failure.count <= (on_fp8_cores_ ? failure.of / 10 : 0)) continue;
    out.push_back(
        fmt::format("{}: {} outside the bound, first {}", op, failure.count, failure.first));
  }
  return out;
}

const std::string* OpComparison::first_turned(int64_t token, bool shared_only) const {
  const auto& firsts = shared_only ? shared_ : own_;
  const auto at = firsts.find(token);
  return at == firsts.end() || at->second.turned.empty() ? nullptr : &at->second.turned;
}

const std::string* OpComparison::first_edge(int64_t token, bool shared_only) const {
  const auto& firsts = shared_only ? shared_ : own_;
  const auto at = firsts.find(token);
  return at == firsts.end() ? nullptr : &at->second.edge;
}

}  // namespace cachalot::verify
