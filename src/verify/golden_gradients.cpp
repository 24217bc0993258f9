#include "verify/golden_gradients.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "formats/json_fields.h"
#include "ops/optim/adamw.h"
#include "train/training_model.h"
#include "verify/golden_gradient_file.h"

namespace cachalot::verify {
namespace {

namespace fs = std::filesystem;

constexpr double kLossTolerance = 1e-6;      // relative
constexpr double kGradientTolerance = 1e-4;  // of the gradient's norm
constexpr double kStepLossTolerance = 1e-4;  // relative, of every step
constexpr size_t kMaxJsonBytes = size_t{1} << 20;

struct GoldenSteps {
  ops::AdamwParams adamw{};  // its four settings
  std::vector<double> losses;
};

Result<std::vector<double>> numbers(const json::object& object, const std::string& key,
                                    const std::string& path) {
  const json::value* value = object.if_contains(key);
  std::vector<double> out;
  if (value != nullptr && value->is_array()) {
    for (const json::value& element : value->get_array()) {
      if (element.is_number()) out.push_back(element.to_number<double>());
    }
    if (out.size() == value->get_array().size()) return out;
  }
  return invalid_argument(fmt::format("{}: {}: expected an array of numbers, found {}", path, key,
                                      value == nullptr ? "none" : formats::json_excerpt(*value)));
}

Result<GoldenSteps> read_steps(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxJsonBytes));
  CACHALOT_ASSIGN_OR_RETURN(const json::value document, parse_json(text, path, 8));
  if (!document.is_object()) return invalid_argument(path + ": expected an object");
  GoldenSteps steps;
  CACHALOT_ASSIGN_OR_RETURN(steps.losses, numbers(document.get_object(), "losses", path));
  formats::JsonFields fields(document.get_object(), path);
  const json::object* adamw = fields.object("adamw");
  if (adamw == nullptr) fields.fail("adamw", "an object", "no such key");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  formats::JsonFields settings(*adamw, path, "adamw.");
  settings.real("lr", &steps.adamw.learning_rate, 0, 1);
  settings.real("eps", &steps.adamw.eps, 0, 1);
  settings.real("weight_decay", &steps.adamw.weight_decay, 0, 1);
  CACHALOT_RETURN_IF_ERROR(settings.status());
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> betas, numbers(*adamw, "betas", path));
  if (betas.size() != 2) {
    return invalid_argument(
        fmt::format("{}: adamw.betas: expected 2 numbers, found {}", path, betas.size()));
  }
  steps.adamw.beta1 = betas[0];
  steps.adamw.beta2 = betas[1];
  return steps;
}

bool is_indexer(const train::Parameter& parameter) {
  return parameter.info.component == formats::Component::indexer;
}

class GradientVerifier {
 public:
  GradientVerifier(device::ExecContext& ctx, std::string directory, GoldenReport& report)
      : ctx_(ctx), directory_(std::move(directory)), report_(report) {}

  Status run(const formats::SafetensorsFile& expected,
             const std::vector<std::vector<int32_t>>& ids) {
    const tensor::TensorView* loss = expected.find("loss");
    if (loss == nullptr) return {};
    CACHALOT_RETURN_IF_ERROR(read_labels(expected, ids));
    CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                              formats::WeightSource::open(directory_));
    CACHALOT_ASSIGN_OR_RETURN(train::ParameterStore parameters,
                              train::ParameterStore::from_checkpoint(source));
    CACHALOT_ASSIGN_OR_RETURN(model_,
                              train::TrainingModel::create(ctx_, source.config(), parameters,
                                                           train::TrainingPrecision::fp32()));
    const double found = step(parameters);
    const double golden = tensor::to_floats(*loss).at(0);
    const double error = std::abs(found - golden) / std::abs(golden);
    report_.check(error <= kLossTolerance, "loss",
                  fmt::format("expected {:.9g}, found {:.9g}, relative {:.2g} (bound {})", golden,
                              found, error, kLossTolerance));
    CACHALOT_ASSIGN_OR_RETURN(golden_, GoldenGradientFile::open(directory_));
    CACHALOT_RETURN_IF_ERROR(compare_gradients(parameters));
    return compare_steps(parameters);
  }

 private:
  Status read_labels(const formats::SafetensorsFile& expected,
                     const std::vector<std::vector<int32_t>>& ids) {
    const tensor::TensorView* view = expected.find("labels");
    const auto length = static_cast<int64_t>(ids.at(0).size());
    if (view == nullptr || view->num_elements() != static_cast<int64_t>(ids.size()) * length) {
      return invalid_argument(
          fmt::format("{}: labels: expected [{}, {}], found {}", expected.path(), ids.size(),
                      length, view == nullptr ? "none" : tensor::shape_string(view->shape)));
    }
    const std::vector<int64_t> labels = tensor::to_integers(*view);
    for (size_t b = 0; b < ids.size(); ++b) {
      auto& row = labels_.emplace_back(static_cast<size_t>(length), -1);
      for (int64_t t = 0; t + 1 < length; ++t) {
        const int64_t next = labels[static_cast<int64_t>(b) * length + t + 1];
        if (next < 0) continue;
        row[t] = static_cast<int32_t>(next);
        ++num_targets_;
      }
    }
    for (size_t b = 0; b < ids.size(); ++b) samples_.push_back({ids[b], labels_[b]});
    return {};
  }

  // The mean loss; the gradients are the parameters' afterwards.
  double step(train::ParameterStore& parameters) {
    parameters.clear_grads(ctx_);
    const train::LossSums sums = model_->add_gradients(
        ctx_, samples_, {static_cast<float>(1.0 / static_cast<double>(num_targets_)), 0.0f});
    return sums.lm / static_cast<double>(num_targets_);
  }

  Status compare_gradients(train::ParameterStore& parameters) {
    if (golden_ == nullptr) return {};
    double worst = 0;
    std::string worst_name = "none";
    int64_t num_compared = 0;
    for (train::Parameter& parameter : parameters.parameters()) {
      if (parameter.grad.empty()) continue;
      CACHALOT_ASSIGN_OR_RETURN(const GradientDistance d, golden_->distance(parameter));
      const double relative = d.error == 0 ? 0.0 : d.error / d.norm;
      if (!(relative <= kGradientTolerance)) {
        report_.check(false, "gradient of " + parameter.info.name,
                      fmt::format("norm {:.4g}, off by {:.2g} of it (bound {}); {}", d.norm,
                                  relative, kGradientTolerance, d.detail));
      }
      if (!(relative <= worst)) {
        worst = relative;
        worst_name = parameter.info.name;
      }
      ++num_compared;
    }
    report_.check(worst <= kGradientTolerance, "gradients",
                  fmt::format("{} parameters, worst {}: off by {:.2g} of its norm (bound {})",
                              num_compared, worst_name, worst, kGradientTolerance));
    return {};
  }

  // The losses of the steps, each before its update. `other_first`: the first update takes
  // gradients that differ from ours by rounding.
  Result<std::vector<double>> step_losses(train::ParameterStore& parameters,
                                          const GoldenSteps& golden, bool other_first) {
    const std::vector<train::Parameter> start = parameters.parameters();
    std::vector<std::vector<float>> m, v;
    for (const train::Parameter& parameter : start) {
      m.emplace_back(parameter.grad.size());
      v.emplace_back(parameter.grad.size());
    }
    std::vector<double> losses;
    for (size_t s = 0; s < golden.losses.size(); ++s) {
      losses.push_back(step(parameters));
      for (size_t i = 0; i < m.size(); ++i) {
        train::Parameter& parameter = parameters.parameters()[i];
        if (parameter.grad.empty() || is_indexer(parameter))
          continue;  // torch skips what has no gradient
        if (s == 0 && other_first) {
          CACHALOT_ASSIGN_OR_RETURN(parameter.grad, golden_->another(parameter));
        }
        ops::AdamwParams p = golden.adamw;
        p.n = static_cast<int64_t>(parameter.grad.size());
        p.g = parameter.grad.data();
        p.w = parameter.master.data();
        p.m = m[i].data();
        p.v = v[i].data();
        p.step = static_cast<int64_t>(s) + 1;
        ops::adamw(ctx_, p);
      }
      CACHALOT_CHECK(model_->refresh(ctx_).ok());
    }
    for (size_t i = 0; i < start.size(); ++i) parameters.parameters()[i].master = start[i].master;
    CACHALOT_CHECK(model_->refresh(ctx_).ok());
    return losses;
  }

  // Adam divides by a gradient's own size: an element that is rounding noise moves as far as any
  // other, and where that noise crosses a routing or selection gap a loss moves by 1e-4 and more.
  // Whether it has is measured: the same steps again, but with gradients that differ from ours by
  // rounding in the first update. From the step at which our own two runs part, no loss is
  // determined to the bound, and none is compared.
  Status compare_steps(train::ParameterStore& parameters) {
    const std::string path = (fs::path(directory_) / "train.json").string();
    if (!fs::exists(path) || golden_ == nullptr) return {};
    CACHALOT_ASSIGN_OR_RETURN(const GoldenSteps golden, read_steps(path));
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> own,
                              step_losses(parameters, golden, false));
    CACHALOT_ASSIGN_OR_RETURN(const std::vector<double> other,
                              step_losses(parameters, golden, true));
    const auto apart = [&](size_t s, double loss) {
      return std::abs(own[s] - loss) / std::abs(golden.losses[s]);
    };
    double worst = 0, worst_later = 0;
    size_t parted = 0;
    while (parted < own.size() && apart(parted, other[parted]) <= kStepLossTolerance) {
      worst = std::max(worst, apart(parted, golden.losses[parted]));
      ++parted;
    }
    for (size_t s = parted; s < own.size(); ++s)
      worst_later = std::max(worst_later, apart(s, golden.losses[s]));
    std::string detail = fmt::format("{} of {} steps, worst off by {:.2g} (bound {})", parted,
                                     own.size(), worst, kStepLossTolerance);
    if (parted < own.size()) {
      detail += fmt::format(
          "; from step {} on rounding decides: {:.7g} with our first gradient, {:.7g} with "
          "another, "
          "golden {:.7g}; later steps off by up to {:.2g}",
          parted, own[parted], other[parted], golden.losses[parted], worst_later);
    }
    report_.check(parted > 1 && worst <= kStepLossTolerance, "AdamW losses", detail);
    return {};
  }

  device::ExecContext& ctx_;
  std::string directory_;
  GoldenReport& report_;
  std::unique_ptr<GoldenGradientFile> golden_;
  std::unique_ptr<train::TrainingModel> model_;
  std::vector<std::vector<int32_t>> labels_;
  std::vector<train::Sample> samples_;
  int64_t num_targets_ = 0;
};

}  // namespace

Status verify_gradients(device::ExecContext& ctx, const std::string& directory,
                        const formats::SafetensorsFile& expected,
                        const std::vector<std::vector<int32_t>>& ids, GoldenReport& report) {
  return GradientVerifier(ctx, directory, report).run(expected, ids);
}

}  // namespace cachalot::verify
