#include "verify/golden.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "engine/loaded_model.h"
#include "formats/safetensors.h"
#include "verify/digest.h"
#include "verify/expected_file.h"
#include "verify/golden_gradients.h"
#include "verify/golden_report.h"
#include "verify/golden_run.h"
#include "verify/invariance.h"
#include "verify/official.h"

namespace cachalot::verify {
namespace {

constexpr double kStreamTolerance = 1e-4;  // fp32 sets: what fp32 sums of other orders leave
constexpr double kQuantLogitTolerance = 5e-4;

// A tensor of expected.safetensors that must exist with a given rank.
Result<tensor::TensorView> require(const formats::SafetensorsFile& file, const std::string& name,
                                   size_t rank) {
  const tensor::TensorView* view = file.find(name);
  if (view == nullptr)
    return not_found(fmt::format("{}: expected a tensor {}, found none", file.path(), name));
  if (view->shape.size() != rank) {
    return invalid_argument(fmt::format("{}: {}: expected rank {}, found {}", file.path(), name,
                                        rank, tensor::shape_string(view->shape)));
  }
  return *view;
}

class Verifier {
 public:
  Verifier(engine::LoadedModel& model, const formats::SafetensorsFile& expected)
      : model_(model), expected_(expected) {}

  Status run(GoldenReport& report, const VerifyOptions& options) {
    CACHALOT_RETURN_IF_ERROR(read_ids());
    const auto& config = model_.transformer().config();
    CACHALOT_ASSIGN_OR_RETURN(
        runner_, GoldenRunner::create(model_.transformer(), model_.context(),
                                      std::max<int64_t>(length_, kInvarianceTokens), 3));
    if (options.precision == "official" || options.precision == "official-fp8") {
      CACHALOT_RETURN_IF_ERROR(verify_official(model_, *runner_, expected_, ids_, report));
      return verify_invariance(*runner_, options.invariance, report);
    }
    for (int64_t b = 0; b < batch_; ++b) {
      CACHALOT_ASSIGN_OR_RETURN(cache::SequenceCache sequence, runner_->new_sequence());
      CACHALOT_ASSIGN_OR_RETURN(const PassRecord pass, runner_->run(sequence, ids_[b], {}, true));
      CACHALOT_RETURN_IF_ERROR(compare_logits(report, b, pass));
      if (b == 0) CACHALOT_RETURN_IF_ERROR(compare_streams(report, pass));
      for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
        CACHALOT_RETURN_IF_ERROR(compare_router(report, b, layer, pass));
        CACHALOT_RETURN_IF_ERROR(compare_selection(report, b, layer, pass));
      }
    }
    CACHALOT_RETURN_IF_ERROR(verify_invariance(*runner_, options.invariance, report));
    if (!options.gradients) return {};
    if (model_.context().gpu != nullptr) {
      GoldenReport::inform("backward", "skipped: it runs on the CPU alone");
      return {};
    }
    return verify_gradients(model_.context(), options.directory, expected_, ids_, report);
  }

 private:
  Status read_ids() {
    CACHALOT_ASSIGN_OR_RETURN(const tensor::TensorView view, require(expected_, "input_ids", 2));
    batch_ = view.shape[0];
    length_ = view.shape[1];
    const int64_t vocab_size = model_.transformer().config().vocab_size;
    const std::vector<int64_t> ids = tensor::to_integers(view);
    for (int64_t b = 0; b < batch_; ++b) {
      auto& row = ids_.emplace_back();
      for (int64_t t = 0; t < length_; ++t) {
        const int64_t id = ids[b * length_ + t];
        if (id < 0 || id >= vocab_size) {
          return invalid_argument(
              fmt::format("{}: input_ids[{}, {}]: expected an id in [0, {}), found {}",
                          expected_.path(), b, t, vocab_size, id));
        }
        row.push_back(static_cast<int32_t>(id));
      }
    }
    return read_rows();
  }

  Status read_rows() {
    if (expected_.find("rows") == nullptr) {
      rows_.resize(static_cast<size_t>(length_));
      std::iota(rows_.begin(), rows_.end(), 0);
      return {};
    }
    CACHALOT_ASSIGN_OR_RETURN(const tensor::TensorView view, require(expected_, "rows", 1));
    rows_ = tensor::to_integers(view);
    for (const int64_t row : rows_) {
      if (row < 0 || row >= length_) {
        return invalid_argument(fmt::format("{}: rows: expected positions in [0, {}), found {}",
                                            expected_.path(), length_, row));
      }
    }
    return {};
  }

  // Of the rows of `found` (all positions, `width` elements each) those that the set holds.
  std::vector<float> held(std::span<const float> found, int64_t width) const {
    std::vector<float> out;
    for (const int64_t row : rows_) {
      const auto elements = found.subspan(static_cast<size_t>(row * width), width);
      out.insert(out.end(), elements.begin(), elements.end());
    }
    return out;
  }

  // Sequence b of a tensor [.., rows, ..] that holds `width` elements a row.
  Status compare_rows(GoldenReport& report, const std::string& check, const std::string& name,
                      const tensor::TensorView& view, int64_t b, std::span<const float> found,
                      int64_t width, double tolerance) {
    const std::vector<float> ours = held(found, width);
    const std::vector<float> golden = tensor::to_floats(view);
    const auto first = static_cast<size_t>(b) * ours.size();
    if (golden.size() < first + ours.size() || view.shape.size() < 3 ||
        view.shape[1] != static_cast<int64_t>(rows_.size())) {
      return invalid_argument(fmt::format(
          "{}: {}: expected {} rows of {} elements a sequence, found shape {}", expected_.path(),
          name, rows_.size(), width, tensor::shape_string(view.shape)));
    }
    WorstElement worst = worst_element(std::span(golden).subspan(first, ours.size()), ours);
    tensor::Shape shape = view.shape;
    shape[1] = length_;
    worst.index = (b * length_ + rows_[worst.index / width]) * width + worst.index % width;
    report.check(worst.error <= tolerance, check,
                 describe(worst, shape) + fmt::format(" (bound {})", tolerance));
    return compare_digests(report, check, name, b, found, width, tolerance);
  }

  // Every row by its digest, where the set has them. Elements that are off by no more than the
  // tolerance make a distance of at most its sqrt(width)-fold.
  Status compare_digests(GoldenReport& report, const std::string& check, const std::string& name,
                         int64_t b, std::span<const float> found, int64_t width, double tolerance) {
    const tensor::TensorView* view = expected_.find("digest." + name);
    if (view == nullptr) return {};
    const int64_t num_sums = view->shape.empty() ? 0 : view->shape.back();
    if (view->dtype != tensor::DType::f64 || num_sums < 1 || num_sums > kMaxSums ||
        view->num_elements() < (b + 1) * length_ * num_sums) {
      return invalid_argument(fmt::format(
          "{}: digest.{}: expected F64, {} rows a sequence of 1 to {} sums, found {} {}",
          expected_.path(), name, length_, kMaxSums, tensor::dtype_name(view->dtype),
          tensor::shape_string(view->shape)));
    }
    const std::vector<double> golden = to_doubles(*view);
    double worst = 0;
    int64_t worst_row = 0;
    for (int64_t t = 0; t < length_; ++t) {
      const std::span row = std::span(golden).subspan((b * length_ + t) * num_sums, num_sums);
      const double distance = estimated_distance(
          row, signed_sums(found.subspan(static_cast<size_t>(t * width), width), num_sums));
      if (!(distance <= worst)) worst = distance, worst_row = t;
    }
    const double bound = tolerance * std::sqrt(static_cast<double>(width));
    report.check(worst <= bound, check + ", every row",
                 fmt::format("row {} is {:.3g} away, by its digest (bound {:.3g})", worst_row,
                             worst, bound));
    return {};
  }

  Status compare_logits(GoldenReport& report, int64_t b, const PassRecord& pass) {
    const bool quantised = expected_.find("exact.logits") != nullptr;
    const std::string name = quantised ? "exact.logits" : "logits";
    CACHALOT_ASSIGN_OR_RETURN(const tensor::TensorView view, require(expected_, name, 3));
    return compare_rows(report, fmt::format("logits, sequence {}", b), name, view, b, pass.logits,
                        model_.transformer().config().vocab_size,
                        quantised ? kQuantLogitTolerance : kStreamTolerance);
  }

  Status compare_streams(GoldenReport& report, const PassRecord& pass) {
    for (const auto& [layer, found] : pass.layer_streams) {
      const std::string name = fmt::format("hidden.{}", layer);
      const tensor::TensorView* view = expected_.find(name);
      if (view == nullptr) continue;
      CACHALOT_RETURN_IF_ERROR(compare_rows(report, name, name, *view, 0, found,
                                            static_cast<int64_t>(found.size()) / length_,
                                            kStreamTolerance));
    }
    return {};
  }

  Status compare_router(GoldenReport& report, int64_t b, int64_t layer, const PassRecord& pass) {
    const auto& config = model_.transformer().config();
    const int64_t k = config.num_experts_per_tok;
    const tensor::TensorView* experts = expected_.find(fmt::format("router_experts.{}", layer));
    const tensor::TensorView* weights = expected_.find(fmt::format("router_weights.{}", layer));
    if (!pass.router_ids.contains(layer) || weights == nullptr) return {};
    const std::vector<int32_t>& ids = pass.router_ids.at(layer);
    const std::vector<float>& found_weights = pass.router_weights.at(layer);
    const std::vector<int64_t> golden_ids =
        experts != nullptr ? tensor::to_integers(*experts) : std::vector<int64_t>{};
    const std::vector<float> golden_weights = tensor::to_floats(*weights);
    if (static_cast<int64_t>(golden_weights.size()) != batch_ * length_ * k) {
      return invalid_argument(fmt::format("{}: router_weights.{}: expected {} elements, found {}",
                                          expected_.path(), layer, batch_ * length_ * k,
                                          golden_weights.size()));
    }
    int64_t num_wrong = 0, first_wrong = -1;
    double worst = 0.0;
    for (int64_t t = 0; t < length_; ++t) {
      const int64_t at = (b * length_ + t) * k;
      // The golden row's own order of choices, put in order of expert; without ids, weights alone
      // compare as sets.
      std::vector<std::pair<int64_t, float>> golden, found;
      for (int64_t i = 0; i < k; ++i) {
        golden.emplace_back(experts != nullptr ? golden_ids[at + i] : 0, golden_weights[at + i]);
        found.emplace_back(experts != nullptr ? ids[t * k + i] : 0, found_weights[t * k + i]);
      }
      std::sort(golden.begin(), golden.end());
      std::sort(found.begin(), found.end());
      for (int64_t i = 0; i < k; ++i) {
        if (golden[i].first != found[i].first && first_wrong != t) ++num_wrong, first_wrong = t;
        worst = std::max(worst, std::fabs(static_cast<double>(golden[i].second) - found[i].second));
      }
    }
    report.check(num_wrong == 0 && worst <= kStreamTolerance,
                 fmt::format("router.{}, sequence {}", layer, b),
                 fmt::format("{} of {} rows choose other experts, worst weight error {:.3g}",
                             num_wrong, length_, worst));
    return {};
  }

  Status compare_selection(GoldenReport& report, int64_t b, int64_t layer, const PassRecord& pass) {
    const tensor::TensorView* view = expected_.find(fmt::format("topk.{}", layer));
    if (view == nullptr || !pass.selected.contains(layer)) return {};
    const int64_t topk = view->shape.back();
    const std::vector<int64_t> golden = tensor::to_integers(*view);
    const std::vector<int32_t>& found = pass.selected.at(layer);
    const int64_t found_topk = static_cast<int64_t>(found.size()) / length_;
    int64_t num_wrong = 0, first_wrong = -1;
    for (int64_t t = 0; t < length_; ++t) {
      std::set<int64_t> expected_set, found_set;
      for (int64_t i = 0; i < topk; ++i) expected_set.insert(golden[(b * length_ + t) * topk + i]);
      for (int64_t i = 0; i < found_topk; ++i) found_set.insert(found[t * found_topk + i]);
      expected_set.erase(-1);
      found_set.erase(-1);
      if (expected_set != found_set) {
        if (first_wrong < 0) first_wrong = t;
        ++num_wrong;
      }
    }
    report.check(num_wrong == 0, fmt::format("indexer picks.{}, sequence {}", layer, b),
                 num_wrong == 0 ? fmt::format("{} rows equal", length_)
                                : fmt::format("{} of {} rows differ, first {}", num_wrong, length_,
                                              first_wrong));
    return {};
  }

  engine::LoadedModel& model_;
  const formats::SafetensorsFile& expected_;
  std::unique_ptr<GoldenRunner> runner_;
  int64_t batch_ = 0;
  int64_t length_ = 0;
  std::vector<int64_t> rows_;  // positions of which streams and logits are held whole
  std::vector<std::vector<int32_t>> ids_;
};

}  // namespace

Result<GoldenReport> verify_golden(const VerifyOptions& options) {
  CACHALOT_ASSIGN_OR_RETURN(
      auto model, engine::LoadedModel::load(
                      {options.directory, options.precision, options.device, options.threads}));
  CACHALOT_ASSIGN_OR_RETURN(const formats::SafetensorsFile expected,
                            open_expected(options.directory + "/expected.safetensors"));
  GoldenReport report;
  CACHALOT_RETURN_IF_ERROR(Verifier(*model, expected).run(report, options));
  fmt::print("{} checks, {} failed ({}, {}, {}, {} threads)\n", report.num_checks(),
             report.failed().size(), options.precision, options.device,
             device::isa_name(model->context().isa), model->context().pool->num_threads());
  return report;
}

}  // namespace cachalot::verify
