// train_replay MODEL --batches FILE --out FILE [--choices FILE] [settings]
// Our side of train_compare.py: AdamW steps from a checkpoint's weights on given batches, with or
// without given choices.
// batches   safetensors: input_ids [steps, rows, length], integers; each row's labels are its next
//           tokens, the last has none; labels, if there, in the same shape, of the tokens
//           themselves: a negative one is no target.
// choices   safetensors: layers.N.experts [steps, rows * length, num_experts_per_tok] of
//           score-routed layers, layers.N.selected [steps, rows * length, index_topk] of CSA
//           layers, unused places -1 and last.
// out       JSON: the loss of each step before its update, its gradient norm, its seconds
//           (gradients, update, packing of the weights).
// The indexer is not trained, since the language-model loss does not reach it: torch skips
// parameters without a gradient.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <limits>

#include "base/file.h"
#include "base/thread_pool.h"
#include "formats/safetensors.h"
#include "formats/weight_source.h"
#include "optim/optimizer.h"
#include "train/training_model.h"

namespace {

using cachalot::invalid_argument;
using cachalot::Result;
using cachalot::Status;
using cachalot::formats::SafetensorsFile;
using cachalot::tensor::TensorView;

struct Options {
  std::string model, batches, choices, out;
  double learning_rate = 1e-3;
  int threads = 0;
  cachalot::optim::AdamwConfig adamw;
};

// Integers of [steps, rows, columns], each in [min, max] (checked).
struct StepArray {
  int64_t steps = 0, rows = 0, columns = 0;
  std::vector<int32_t> values;
  std::span<const int32_t> step(int64_t s) const {
    return std::span(values).subspan(static_cast<size_t>(s * rows * columns),
                                     static_cast<size_t>(rows * columns));
  }
};

Result<StepArray> read_array(const SafetensorsFile& file, const std::string& name, int64_t min,
                             int64_t max) {
  const TensorView* view = file.find(name);
  using cachalot::tensor::DType;
  constexpr DType kIntegers[] = {DType::i8, DType::i16, DType::i32, DType::i64};
  if (view == nullptr || view->shape.size() != 3 ||
      std::find(std::begin(kIntegers), std::end(kIntegers), view->dtype) == std::end(kIntegers)) {
    return invalid_argument(fmt::format(
        "{}: {}: expected integers of three axes, found {}", file.path(), name,
        view == nullptr ? std::string("none") : cachalot::tensor::shape_string(view->shape)));
  }
  StepArray array{view->shape[0], view->shape[1], view->shape[2], {}};
  for (const int64_t value : to_integers(*view)) {
    if (value < min || value > max) {
      return invalid_argument(fmt::format("{}: {}: expected values from {} to {}, found {}",
                                          file.path(), name, min, max, value));
    }
    array.values.push_back(static_cast<int32_t>(value));
  }
  return array;
}

// By layer; empty where there is nothing to choose.
struct RecordedChoices {
  std::vector<StepArray> experts, selected;

  cachalot::model::Choices step(int64_t s) const {
    cachalot::model::Choices choices;
    for (const StepArray& layer : experts) append(choices.experts, layer, s);
    for (const StepArray& layer : selected) append(choices.selected, layer, s);
    return choices;
  }

 private:
  static void append(std::vector<std::vector<int32_t>>& lists, const StepArray& layer, int64_t s) {
    auto& list = lists.emplace_back();
    if (layer.steps == 0) return;
    const std::span<const int32_t> values = layer.step(s);
    list.assign(values.begin(), values.end());
  }
};

Status check_shape(const StepArray& array, const StepArray& batches, int64_t columns,
                   const std::string& name) {
  const int64_t rows = batches.rows * batches.columns;
  if (array.steps == batches.steps && array.rows == rows && array.columns == columns) return {};
  return invalid_argument(fmt::format("{}: expected [{}, {}, {}], found [{}, {}, {}]", name,
                                      batches.steps, rows, columns, array.steps, array.rows,
                                      array.columns));
}

// A pick must be an entry that is complete at its row's position, and none may follow an unused
// place.
Status check_selected(const StepArray& array, int64_t length, int64_t ratio,
                      const std::string& name) {
  for (size_t i = 0; i < array.values.size(); ++i) {
    const auto column = static_cast<int64_t>(i) % array.columns;
    const int64_t position = static_cast<int64_t>(i) / array.columns % length;
    const int32_t pick = array.values[i];
    if (pick < (position + 1) / ratio && (pick < 0 || column == 0 || array.values[i - 1] >= 0))
      continue;
    return invalid_argument(fmt::format(
        "{}: expected entries below {} at position {} with unused places last, found {}", name,
        (position + 1) / ratio, position, pick));
  }
  return {};
}

Result<RecordedChoices> read_choices(const std::string& path,
                                     const cachalot::formats::ModelConfig& config,
                                     const StepArray& batches) {
  using cachalot::formats::AttentionKind;
  using cachalot::formats::FfnKind;
  CACHALOT_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(path));
  RecordedChoices choices;
  const auto layers = layer_configs(config);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    StepArray& experts = choices.experts.emplace_back();
    StepArray& selected = choices.selected.emplace_back();
    if (layers[i].ffn == FfnKind::routed) {
      const std::string name = fmt::format("layers.{}.experts", i);
      CACHALOT_ASSIGN_OR_RETURN(experts, read_array(file, name, 0, config.n_routed_experts - 1));
      CACHALOT_RETURN_IF_ERROR(check_shape(experts, batches, config.num_experts_per_tok, name));
    }
    if (layers[i].attention == AttentionKind::csa) {
      const std::string name = fmt::format("layers.{}.selected", i);
      CACHALOT_ASSIGN_OR_RETURN(selected, read_array(file, name, -1, batches.columns));
      CACHALOT_RETURN_IF_ERROR(check_shape(selected, batches, config.index_topk, name));
      CACHALOT_RETURN_IF_ERROR(check_selected(selected, batches.columns, layers[i].ratio, name));
    }
  }
  return choices;
}

Result<cachalot::optim::Optimizer> make_optimizer(cachalot::train::ParameterStore& store,
                                                  const cachalot::formats::ModelConfig& config,
                                                  const Options& options) {
  cachalot::optim::OptimizerConfig settings;
  settings.adamw = options.adamw;
  settings.max_grad_norm = 0;
  settings.grouping = {config.hc_mult,
                       config.head_dim,
                       config.index_head_dim,
                       config.num_attention_heads,
                       config.index_n_heads,
                       config.o_groups,
                       false,
                       false,
                       true};  // one group, as torch's default
  std::vector<cachalot::optim::OptimizedParameter> parameters;
  for (cachalot::train::Parameter& p : store.parameters()) {
    parameters.push_back(
        {p.info.name, p.info.shape, p.master.data(), p.grad.empty() ? nullptr : p.grad.data()});
  }
  CACHALOT_ASSIGN_OR_RETURN(cachalot::optim::Optimizer optimizer,
                            cachalot::optim::Optimizer::create(std::move(parameters), settings));
  for (size_t i = 0; i < store.parameters().size(); ++i) {
    if (cachalot::optim::is_indexer_parameter(store.parameters()[i].info.name))
      optimizer.set_active(static_cast<int64_t>(i), false);
  }
  return optimizer;
}

// One row per sample: its tokens, and as labels those of its next tokens.
std::vector<cachalot::train::Sample> samples_of(std::span<const int32_t> ids,
                                                std::span<const int32_t> token_labels, int64_t rows,
                                                std::vector<int32_t>& labels) {
  const size_t length = ids.size() / static_cast<size_t>(rows);
  labels.assign(ids.size(), -1);
  std::vector<cachalot::train::Sample> samples;
  for (size_t first = 0; first < ids.size(); first += length) {
    std::transform(token_labels.data() + first + 1, token_labels.data() + first + length,
                   labels.data() + first, [](int32_t label) { return std::max(label, -1); });
    samples.push_back({ids.subspan(first, length), std::span(labels).subspan(first, length)});
  }
  return samples;
}

Status run(const Options& options) {
  CACHALOT_ASSIGN_OR_RETURN(const cachalot::formats::WeightSource source,
                            cachalot::formats::WeightSource::open(options.model));
  const cachalot::formats::ModelConfig& config = source.config();
  CACHALOT_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(options.batches));
  CACHALOT_ASSIGN_OR_RETURN(const StepArray batches,
                            read_array(file, "input_ids", 0, config.vocab_size - 1));
  if (batches.rows < 1 || batches.columns < 2) {
    return invalid_argument(
        fmt::format("{}: input_ids: expected rows of at least 2 tokens", options.batches));
  }
  StepArray token_labels = batches;
  if (file.find("labels") != nullptr) {
    CACHALOT_ASSIGN_OR_RETURN(
        token_labels,
        read_array(file, "labels", std::numeric_limits<int32_t>::min(), config.vocab_size - 1));
    if (token_labels.steps != batches.steps || token_labels.rows != batches.rows ||
        token_labels.columns != batches.columns) {
      return invalid_argument(fmt::format(
          "{}: labels: expected the shape of input_ids, [{}, {}, {}], found [{}, {}, {}]",
          options.batches, batches.steps, batches.rows, batches.columns, token_labels.steps,
          token_labels.rows, token_labels.columns));
    }
  }
  RecordedChoices recorded;
  if (!options.choices.empty()) {
    CACHALOT_ASSIGN_OR_RETURN(recorded, read_choices(options.choices, config, batches));
  }
  CACHALOT_ASSIGN_OR_RETURN(const cachalot::device::Isa isa, cachalot::device::chosen_isa());
  cachalot::ThreadPool pool(options.threads);
  cachalot::device::Arena arena;
  cachalot::device::ExecContext ctx{&pool, &arena, isa};
  CACHALOT_ASSIGN_OR_RETURN(auto store, cachalot::train::ParameterStore::from_checkpoint(source));
  CACHALOT_ASSIGN_OR_RETURN(const auto model,
                            cachalot::train::TrainingModel::create(
                                ctx, config, store, cachalot::train::TrainingPrecision::fp32()));
  CACHALOT_ASSIGN_OR_RETURN(auto optimizer, make_optimizer(store, config, options));

  std::vector<double> losses, norms, seconds;
  std::vector<int32_t> labels;
  for (int64_t s = 0; s < batches.steps; ++s) {
    const auto samples = samples_of(batches.step(s), token_labels.step(s), batches.rows, labels);
    const int64_t targets =
        std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label >= 0; });
    if (targets == 0) {
      return invalid_argument(fmt::format(
          "{}: labels: expected a target in each step, found none in step {}", options.batches, s));
    }
    const cachalot::model::Choices choices = recorded.step(s);
    cachalot::model::TrainingTerms terms;
    terms.replay = &choices;
    const auto start = std::chrono::steady_clock::now();
    store.clear_grads(ctx);
    const auto sums =
        model->add_gradients(ctx, samples, {static_cast<float>(1.0 / static_cast<double>(targets))},
                             options.choices.empty() ? nullptr : &terms);
    store.finish_grads(ctx);
    norms.push_back(optimizer.step(ctx, options.learning_rate).grad_norm);
    CACHALOT_RETURN_IF_ERROR(model->refresh(ctx));
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    losses.push_back(sums.lm / static_cast<double>(targets));
  }
  return cachalot::write_file_atomically(
      options.out,
      fmt::format("{{\"losses\": [{}],\n \"grad_norms\": [{}],\n \"seconds\": [{}]}}\n",
                  fmt::join(losses, ", "), fmt::join(norms, ", "), fmt::join(seconds, ", ")));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("AdamW steps on given batches, for bench/transformers/train_compare.py");
  Options options;
  options.adamw.eps = 1e-8;
  app.add_option("model", options.model, "checkpoint directory")->required();
  app.add_option("--batches", options.batches, "safetensors with input_ids [steps, rows, length]")
      ->required();
  app.add_option("--choices", options.choices, "safetensors with the choices to replay");
  app.add_option("--out", options.out, "JSON to write")->required();
  app.add_option("--lr", options.learning_rate)->check(CLI::Range(0.0, 1.0));
  app.add_option("--beta1", options.adamw.beta1);
  app.add_option("--beta2", options.adamw.beta2);
  app.add_option("--eps", options.adamw.eps);
  app.add_option("--weight-decay", options.adamw.weight_decay);
  app.add_option("--threads", options.threads, "0: one per usable core")
      ->check(CLI::Range(0, 1024));
  CLI11_PARSE(app, argc, argv);
  const Status status = run(options);
  if (status.ok()) return 0;
  fmt::print(stderr, "error: {}\n", status.message());
  return 2;
}
