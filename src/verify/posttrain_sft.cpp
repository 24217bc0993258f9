#include "verify/posttrain_sft.h"

#include <fmt/format.h>

#include <filesystem>
#include <optional>

#include "ops/loss/label_logprob.h"
#include "verify/closeness.h"

namespace cachalot::verify {
namespace {

namespace fs = std::filesystem;

constexpr double kNll = 3e-5;
constexpr double kLoss = 1e-6;
constexpr GradientBounds kGradients = {3e-4, 2e-3, 2e-5};

// -log p of the rows' labels; no gradient.
class LabelNll : public train::LogitsLoss {
 public:
  void add(autograd::Context ctx, const Lot& lot) override {
    std::vector<double> logprobs(lot.labels.size());
    const std::vector<double> no_gradient(lot.labels.size(), 0);
    ops::label_logprob(ctx.exec, {.logits = lot.logits,
                                  .logits_stride = lot.vocab_size,
                                  .labels = lot.labels.data(),
                                  .rows = static_cast<int64_t>(lot.labels.size()),
                                  .vocab_size = lot.vocab_size,
                                  .logprobs = logprobs.data(),
                                  .coefficients = no_gradient.data(),
                                  .d_logits = ctx.tape->grad(lot.logits),
                                  .d_logits_stride = lot.vocab_size});
    for (const double logprob : logprobs) values.push_back(-logprob);
  }
  std::vector<double> values;
};

// The conversations of all rows.
struct Packs {
  std::vector<int32_t> tokens, labels;
  std::vector<train::Sample> samples;
  std::vector<float> shares;      // of each position
  int64_t num_conversations = 0;  // that have a target
  std::vector<double> nll;        // of each target

  Packs(GoldenTensors& file, const formats::ModelConfig& config) {
    const std::vector<int64_t> ids = file.integers("tokens");
    const auto count = static_cast<int64_t>(ids.size());
    const tensor::TensorView* view = file.file().find("tokens");
    const int64_t length = view != nullptr && view->shape.size() == 2 ? view->shape[1] : 0;
    if (length == 0) file.fail("tokens", "[rows, length]", "another shape");
    const std::vector<int64_t> segments = file.integers("segment", count);
    const std::vector<int64_t> masks = file.integers("loss_mask", count);
    const std::vector<double> golden = file.numbers("nll", count);
    if (!file.status().ok()) return;
    for (const int64_t id : ids) {
      if (id < 0 || id >= config.vocab_size)
        file.fail("tokens", fmt::format("ids below {}", config.vocab_size), std::to_string(id));
      tokens.push_back(static_cast<int32_t>(id));
    }
    labels.assign(tokens.size(), -1);
    shares.assign(tokens.size(), 0);
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
      const int64_t row_end = (begin / length + 1) * length;
      for (end = begin + 1; end < row_end && segments[end] == segments[begin];) ++end;
      if (segments[begin] < 0) continue;
      int64_t own = 0;
      if (masks[begin] != 0) file.fail("loss_mask", "no target at a first token", "one");
      for (int64_t t = begin + 1; t < end; ++t) {
        if (masks[t] == 0) continue;
        labels[t - 1] = tokens[t];
        nll.push_back(golden[t]);
        ++own;
      }
      if (own > 0) ++num_conversations;
      const auto first = static_cast<size_t>(begin), size = static_cast<size_t>(end - begin);
      samples.push_back(
          {std::span(tokens).subspan(first, size), std::span(labels).subspan(first, size)});
      const float weight = own > 0 ? 1 / static_cast<float>(own) : 0;
      std::fill_n(shares.begin() + begin, end - begin, weight);
    }
  }

  // The samples by their weights in the mean over conversations: 1 over the conversation's targets.
  std::vector<train::Sample> weighted() const {
    std::vector<train::Sample> out = samples;
    for (train::Sample& sample : out) {
      const auto first = static_cast<size_t>(sample.tokens.data() - tokens.data());
      sample.weights = std::span(shares).subspan(first, sample.tokens.size());
    }
    return out;
  }
};

}  // namespace

Status verify_sft(const std::string& directory, PosttrainModel& model, GoldenReport& report) {
  const fs::path folder(directory);
  CACHALOT_ASSIGN_OR_RETURN(GoldenTensors file,
                            GoldenTensors::open((folder / "packs.safetensors").string()));
  const Packs packs(file, model.config());
  CACHALOT_RETURN_IF_ERROR(file.status());
  CACHALOT_ASSIGN_OR_RETURN(const GoldenJson settings,
                            GoldenJson::open((folder / "settings.json").string()));
  CACHALOT_ASSIGN_OR_RETURN(const GoldenJson digests,
                            GoldenJson::open((folder / "digest.json").string()));
  LabelNll found;
  model.gradients(packs.samples, found);
  Closeness nll("sft: -log p of targets", kNll, Closeness::Measure::absolute);
  nll.add(packs.nll, found.values);
  nll.report(report);
  for (const GoldenJson& setting : settings["settings"].elements()) {
    const std::string name = setting["normalisation"].text();
    if (name != "token-mean" && name != "conversation-mean")
      return unsupported(fmt::format("{}: no such normalisation: {}", directory, name));
    const bool by_tokens = name == "token-mean";
    const auto weight =
        static_cast<double>(by_tokens ? std::ssize(packs.nll) : packs.num_conversations);
    model.parameters.clear_grads(model.ctx);
    const train::LossSums sums =
        model.model->add_gradients(model.ctx, by_tokens ? packs.samples : packs.weighted(),
                                   {static_cast<float>(1 / weight), 0});
    model.parameters.finish_grads(model.ctx);
    Closeness total("sft " + name + ": loss", kLoss, Closeness::Measure::absolute);
    total.add(setting["loss"].number(), sums.lm / weight);
    CACHALOT_RETURN_IF_ERROR(settings.status());
    total.report(report);
    std::optional<GoldenTensors> whole;
    const std::string whole_path = (folder / ("grads-" + name + ".safetensors")).string();
    if (fs::exists(whole_path)) {
      CACHALOT_ASSIGN_OR_RETURN(whole, GoldenTensors::open(whole_path));
    }
    CACHALOT_RETURN_IF_ERROR(verify_gradients("sft " + name, model.parameters, digests[name],
                                              whole ? &*whole : nullptr, kGradients, report));
  }
  return settings.status();
}

}  // namespace cachalot::verify
