#include "verify/official.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "verify/reference64.h"

namespace cachalot::verify {
namespace {

// Two evaluations with independent errors of one size are sqrt(2) as far from each other as each is
// from the truth; float64 has the smaller error, so the ratio (ours to golden) / (float64 to
// golden) may reach that, and more where few rows are averaged.
constexpr double kRatio = 2.0;
// A row this many times farther than its layer's median holds a choice that fell the other way, or
// is wrong.
constexpr double kFar = 2.5;
// An error of relative size e moves a difference of two scores by about sqrt(2) * e * spread; three
// of those are possible.
constexpr double kTurnable = 3.0 * 1.41421356;
// Relative step of FP4. Snapping turns an error e into a whole step with probability e / step: root
// mean square sqrt(e * step).
constexpr double kFp4Step = 1.0 / 3.0;
// Three deviations leave 0.3 % outside; rows whose earlier choices turned have larger errors than
// the median tells.
constexpr double kWrongPicks = 0.01;

double distance(std::span<const float> golden, std::span<const float> found) {
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < golden.size(); ++i) {
    const double d = static_cast<double>(golden[i]) - found[i];
    difference += d * d;
    norm += static_cast<double>(golden[i]) * golden[i];
  }
  return std::sqrt(difference / norm);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class OfficialVerifier {
 public:
  OfficialVerifier(engine::LoadedModel& model, GoldenRunner& runner,
                   const formats::SafetensorsFile& expected, GoldenReport& report)
      : model_(model),
        runner_(runner),
        expected_(expected),
        report_(report),
        config_(model.transformer().config()) {}

  Status run(int64_t b, const std::vector<int32_t>& ids) {
    b_ = b;
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<float> prefill_len, read("prefill_len", {1}));
    prefill_ = static_cast<int64_t>(prefill_len[0]);
    const auto length = static_cast<int64_t>(ids.size());
    if (prefill_ < 2 || prefill_ > length) {
      return invalid_argument(
          fmt::format("prefill_len: expected 2 to {}, found {}", length, prefill_));
    }
    // As the golden run did: one prefill, then token by token.
    CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, runner_.new_sequence());
    std::vector<int64_t> pieces(static_cast<size_t>(1 + length - prefill_), 1);
    pieces[0] = prefill_;
    CACHALOT_ASSIGN_OR_RETURN(ours_, runner_.run(sequence, ids, pieces, true));
    CACHALOT_ASSIGN_OR_RETURN(reference_, run_reference64(config_, model_.source(), ids, true));
    for (int64_t layer = 0; layer < config_.num_hidden_layers; ++layer) {
      if (reference_.selection.contains(layer)) compare_picks(layer);
      CACHALOT_RETURN_IF_ERROR(compare_layer(layer));
    }
    CACHALOT_RETURN_IF_ERROR(compare_logits("official.prefill_logits", prefill_ - 1, 1));
    CACHALOT_RETURN_IF_ERROR(compare_logits("official.decode_logits", prefill_, length - prefill_));
    return compare_mtp(ids);
  }

 private:
  // Sequence b_'s part of a tensor [b, ...], or a whole one of `shape`.
  Result<std::vector<float>> read(const std::string& name, const tensor::Shape& shape) {
    const tensor::TensorView* view = expected_.find(name);
    if (view == nullptr)
      return not_found(fmt::format("{}: expected a tensor {}, found none", expected_.path(), name));
    const bool by_sequence = view->shape.size() == shape.size() + 1 && b_ < view->shape[0];
    const tensor::TensorView part = by_sequence ? view->slice(b_) : *view;
    if (part.shape != shape) {
      return invalid_argument(fmt::format("{}: {}: expected {} a sequence, found {}",
                                          expected_.path(), name, tensor::shape_string(shape),
                                          tensor::shape_string(view->shape)));
    }
    return tensor::to_floats(part);
  }

  static std::vector<float> row_of(const std::vector<double>& values, int64_t row,
                                   int64_t columns) {
    const auto first = values.begin() + row * columns;
    return {first, first + columns};
  }

  Status compare_layer(int64_t layer) {
    const int64_t width = config_.hc_dim();
    const std::string name = fmt::format("official.hidden.{}", layer);
    const tensor::TensorView* view = expected_.find(name);
    if (view == nullptr)
      return not_found(fmt::format("{}: expected a tensor {}, found none", expected_.path(), name));
    const int64_t rows = view->shape.size() == 4 ? view->shape[1] : 0;
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<float> golden,
                              read(name, {rows, config_.hc_mult, config_.hidden_size}));
    if (rows > prefill_)
      return invalid_argument(
          fmt::format("{}: expected at most {} rows, found {}", name, prefill_, rows));
    std::vector<double> to_ours, to_float64;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = prefill_ - rows + i;
      const std::span g(golden.data() + i * width, static_cast<size_t>(width));
      to_ours.push_back(distance(g, std::span(ours_.layer_streams.at(layer).data() + row * width,
                                              static_cast<size_t>(width))));
      to_float64.push_back(distance(g, row_of(reference_.layer_streams[layer], row, width)));
    }
    const double ours = median(to_ours), float64 = median(to_float64);
    error_ = std::max(ours, float64);
    report_.check(ours <= kRatio * float64, fmt::format("{}, sequence {}", name, b_),
                  fmt::format("median distance {:.4f}, of float64 {:.4f}", ours, float64));
    for (int64_t i = 0; i < rows; ++i) {
      if (to_ours[i] <= kFar * error_) continue;
      explain(fmt::format("{}, sequence {}, row {}", name, b_, prefill_ - rows + i),
              prefill_ - rows + i, layer, to_ours[i], to_float64[i]);
    }
    return {};
  }

  // This build's and float64's streams of a row before a layer.
  double error_before(int64_t layer, int64_t row) const {
    constexpr double kBf16 = 0x1p-8;
    if (layer == 0) return kBf16;
    const int64_t width = config_.hc_dim();
    const std::span ours(ours_.layer_streams.at(layer - 1).data() + row * width,
                         static_cast<size_t>(width));
    return std::max(kBf16, distance(row_of(reference_.layer_streams[layer - 1], row, width), ours));
  }

  // A pick that float64 would not make is allowed as far below float64's last as the error before
  // the layer, snapped to FP4 in queries and keys, moves scores.
  void compare_picks(int64_t layer) {
    const std::vector<int32_t>& picks = ours_.selected.at(layer);
    std::vector<double> errors;
    for (int64_t row = 0; row < prefill_; ++row) errors.push_back(error_before(layer, row));
    const double typical = median(errors);  // the keys' rows err too, not only the query's
    int64_t num_picks = 0, num_other = 0, num_wrong = 0;
    for (int64_t row = 0; row < prefill_; ++row) {
      const Choice& choice = reference_.selection.at(layer)[row];
      if (std::isinf(choice.gap)) continue;
      const double allowed =
          kTurnable * std::sqrt(kFp4Step * std::max(errors[row], typical)) * choice.spread;
      for (int64_t i = 0; i < config_.index_topk; ++i) {
        const int32_t pick = picks[row * config_.index_topk + i];
        if (pick < 0) continue;
        const double deficit = choice.lowest - reference_.index_scores.at(layer)[row][pick];
        ++num_picks;
        num_other += deficit > 0.0;
        num_wrong += deficit > allowed;
      }
    }
    report_.check(static_cast<double>(num_wrong) <= kWrongPicks * static_cast<double>(num_picks),
                  fmt::format("indexer picks.{}, sequence {}", layer, b_),
                  fmt::format("{} of {} picks are not float64's, {} by more than the error",
                              num_other, num_picks, num_wrong));
  }

  // Passes if a choice at the row, in this layer or an earlier one, is closer than the error around
  // it.
  void explain(const std::string& name, int64_t row, int64_t last_layer, double ours,
               double float64) {
    double best = std::numeric_limits<double>::infinity();
    std::string detail = "no choice is close";
    auto look = [&](const char* kind, int64_t layer, const Choice& c) {
      const double margin = c.gap / (kTurnable * error_ * c.spread);
      if (!(margin < best)) return;
      best = margin;
      detail = fmt::format("{} of layer {}: gap {:.3g}, error {:.3g}", kind, layer, c.gap,
                           kTurnable * error_ * c.spread);
    };
    for (int64_t layer = 0; layer <= last_layer; ++layer) {
      if (const auto at = reference_.router.find(layer); at != reference_.router.end())
        look("routing", layer, at->second[row]);
      if (const auto at = reference_.selection.find(layer); at != reference_.selection.end()) {
        look("selection", layer, at->second[row]);
      }
    }
    report_.check(best <= 1.0, name,
                  fmt::format("distance {:.4f}, of float64 {:.4f}; {}", ours, float64, detail));
  }

  Status compare_logits(const std::string& name, int64_t first_row, int64_t rows) {
    const int64_t vocab = config_.vocab_size;
    CACHALOT_ASSIGN_OR_RETURN(
        const std::vector<float> golden,
        read(name, rows == 1 ? tensor::Shape{vocab} : tensor::Shape{rows, vocab}));
    for (int64_t i = 0; i < rows; ++i) {
      const std::span g(golden.data() + i * vocab, static_cast<size_t>(vocab));
      const int64_t row = first_row + i;
      compare_row(fmt::format("{}, sequence {}, row {}", name, b_, row), row, g,
                  std::span(ours_.logits.data() + row * vocab, static_cast<size_t>(vocab)),
                  row_of(reference_.logits, row, vocab), config_.num_hidden_layers - 1);
    }
    return {};
  }

  void compare_row(const std::string& name, int64_t row, std::span<const float> golden,
                   std::span<const float> found, const std::vector<float>& float64,
                   int64_t last_layer) {
    const double ours = distance(golden, found), reference = distance(golden, float64);
    if (ours <= kRatio * std::max(reference, error_)) {
      report_.check(true, name, fmt::format("distance {:.4f}, of float64 {:.4f}", ours, reference));
    } else {
      explain(name, row, last_layer, ours, reference);
    }
  }

  // The block over the whole prefill at once, as the golden run called it.
  Status compare_mtp(const std::vector<int32_t>& ids) {
    if (model_.transformer().weights().mtp.empty()) return {};
    const int64_t rows = prefill_ - 1, width = config_.hc_dim(), vocab = config_.vocab_size;
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<float> golden,
                              read("official.mtp_logits", {vocab}));
    CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, runner_.new_sequence());
    CACHALOT_RETURN_IF_ERROR(sequence.reserve(prefill_));
    std::vector<float> streams(static_cast<size_t>(rows * width)),
        logits(static_cast<size_t>(vocab));
    const engine::StepInput input{&sequence, std::span(ids).subspan(1, static_cast<size_t>(rows))};
    const int64_t first_position = 0, last_row = rows - 1;
    CACHALOT_RETURN_IF_ERROR(runner_.runner().mtp_forward(0, {&input, 1}, {&first_position, 1},
                                                          ours_.streams.data(), streams.data()));
    model_.transformer().mtp_logits(model_.context(), 0, streams.data(), {&last_row, 1},
                                    logits.data());
    compare_row(fmt::format("official.mtp_logits, sequence {}", b_), last_row, golden, logits,
                row_of(reference_.mtp_logits, last_row, vocab), config_.num_hidden_layers);
    return {};
  }

  engine::LoadedModel& model_;
  GoldenRunner& runner_;
  const formats::SafetensorsFile& expected_;
  GoldenReport& report_;
  const formats::ModelConfig& config_;
  int64_t b_ = 0;
  int64_t prefill_ = 0;
  double error_ = 0.0;  // typical relative error of the last layer compared
  PassRecord ours_;
  Reference64Result reference_;
};

}  // namespace

Status verify_official(engine::LoadedModel& model, GoldenRunner& runner,
                       const formats::SafetensorsFile& expected,
                       const std::vector<std::vector<int32_t>>& ids, GoldenReport& report) {
  OfficialVerifier verifier(model, runner, expected, report);
  for (size_t b = 0; b < ids.size(); ++b)
    CACHALOT_RETURN_IF_ERROR(verifier.run(static_cast<int64_t>(b), ids[b]));
  return {};
}

}  // namespace cachalot::verify
