#include "train/trainer_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/python_json.h"
#include "formats/json_fields.h"

namespace cachalot::train {
namespace {

constexpr int64_t kMax = int64_t{1} << 60;
constexpr char kHistory[] = "trainer.spike_history";

std::string choices_name(int64_t step, size_t micro_batch, size_t layer) {
  return fmt::format("trainer.choices.{}.{}.{}", step, micro_batch, layer);
}

Result<StreamPosition> read_position(const Checkpoint& checkpoint) {
  const std::string origin = checkpoint.directory() + "/trainer.json";
  formats::JsonFields fields(checkpoint.trainer(), origin);
  StreamPosition position;
  fields.integer("step", &position.step, 0, kMax, true);
  fields.integer("tokens_seen", &position.tokens_seen, 0, kMax, true);
  fields.integer("sequence_length", &position.sequence_length, 0, kMax, true);
  const json::object* cursor = fields.object("cursor");
  if (cursor == nullptr) fields.fail("cursor", "an object", "none");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  CACHALOT_ASSIGN_OR_RETURN(position.cursor,
                            data::cursor_from_json(python_json(*cursor), origin + ": cursor"));
  return position;
}

// {"steps_left": 3, "ahead": [{"step": 9, "micro_batches": 2, "layers": 5}]}; the choices are
// arrays.
Status read_anticipation(const Checkpoint& checkpoint, int64_t* steps_left,
                         std::map<int64_t, StepChoices>* ahead) {
  const std::string origin = checkpoint.directory() + "/trainer.json";
  formats::JsonFields fields(checkpoint.trainer(), origin);
  const json::object* anticipation = fields.object("anticipation");
  if (anticipation == nullptr) fields.fail("anticipation", "an object", "none");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  formats::JsonFields inner(*anticipation, origin, "anticipation.");
  inner.integer("steps_left", steps_left, 0, kMax, true);
  const json::value* list = inner.find("ahead");
  if (list == nullptr || !list->is_array()) inner.fail("ahead", "an array", "none");
  CACHALOT_RETURN_IF_ERROR(inner.status());
  for (const json::value& element : list->get_array()) {
    if (!element.is_object()) inner.fail("ahead", "objects", formats::json_excerpt(element));
    CACHALOT_RETURN_IF_ERROR(inner.status());
    formats::JsonFields entry(element.get_object(), origin, "anticipation.ahead.");
    int64_t step = 0, micro_batches = 0, layers = 0;
    entry.integer("step", &step, 0, kMax, true);
    entry.integer("micro_batches", &micro_batches, 0, 1 << 24, true);
    entry.integer("layers", &layers, 0, 1 << 16, true);
    CACHALOT_RETURN_IF_ERROR(entry.status());
    StepChoices& choices = (*ahead)[step];
    choices.resize(static_cast<size_t>(micro_batches));
    for (size_t m = 0; m < choices.size(); ++m) {
      choices[m].experts.resize(static_cast<size_t>(layers));
      for (size_t layer = 0; layer < choices[m].experts.size(); ++layer) {
        const tensor::TensorView* ids = checkpoint.array(choices_name(step, m, layer));
        if (ids == nullptr) continue;  // a hash layer
        if (ids->dtype != tensor::DType::i32) {
          return data_loss(fmt::format("{}: {}: expected I32, found {}", checkpoint.directory(),
                                       choices_name(step, m, layer),
                                       tensor::dtype_name(ids->dtype)));
        }
        auto& experts = choices[m].experts[layer];
        experts.resize(static_cast<size_t>(ids->num_elements()));
        std::memcpy(experts.data(), ids->data, experts.size() * sizeof(int32_t));
      }
    }
  }
  return {};
}

Result<std::deque<SpikeDetector::Point>> read_history(const Checkpoint& checkpoint) {
  const tensor::TensorView* view = checkpoint.array(kHistory);
  std::deque<SpikeDetector::Point> history;
  if (view == nullptr) return history;
  if (view->dtype != tensor::DType::f64 || view->shape.size() != 2 || view->shape[1] != 2) {
    return data_loss(fmt::format("{}: {}: expected F64 [n, 2], found {} {}", checkpoint.directory(),
                                 kHistory, tensor::dtype_name(view->dtype),
                                 tensor::shape_string(view->shape)));
  }
  for (int64_t i = 0; i < view->shape[0]; ++i) {
    double point[2];
    std::memcpy(point, view->data + i * static_cast<int64_t>(sizeof(point)), sizeof(point));
    history.push_back({point[0], point[1]});
  }
  return history;
}

}  // namespace

template <typename T>
void TrainerState::add(std::string name, tensor::DType dtype, std::vector<int64_t> shape,
                       const std::vector<T>& values) {
  const auto bytes = std::as_bytes(std::span(values));
  arrays_.push_back({std::move(name), dtype, std::move(shape), {bytes.begin(), bytes.end()}});
}

TrainerState::TrainerState(const Trainer& trainer, const SpikeDetector& detector,
                           int64_t num_rollbacks) {
  const StreamPosition& position = trainer.position();
  fields_["step"] = position.step;
  fields_["tokens_seen"] = position.tokens_seen;
  fields_["sequence_length"] = position.sequence_length;
  fields_["cursor"] = parse_json(data::to_json(position.cursor), "cursor").value();
  fields_["num_rollbacks"] = num_rollbacks;
  const Anticipation& anticipation = trainer.anticipation();
  json::array ahead;
  for (const auto& [step, choices] : anticipation.ahead()) {
    size_t layers = 0;
    for (size_t m = 0; m < choices.size(); ++m) {
      layers = std::max(layers, choices[m].experts.size());
      for (size_t layer = 0; layer < choices[m].experts.size(); ++layer) {
        const auto& ids = choices[m].experts[layer];
        if (!ids.empty())
          add(choices_name(step, m, layer), tensor::DType::i32, {static_cast<int64_t>(ids.size())},
              ids);
      }
    }
    ahead.push_back(
        json::object{{"step", step}, {"micro_batches", choices.size()}, {"layers", layers}});
  }
  fields_["anticipation"] =
      json::object{{"steps_left", anticipation.steps_left()}, {"ahead", std::move(ahead)}};
  std::vector<double> history;
  for (const SpikeDetector::Point& point : detector.history()) {
    history.push_back(point.loss);
    history.push_back(point.grad_norm);
  }
  add(kHistory, tensor::DType::f64, {static_cast<int64_t>(history.size() / 2), 2}, history);
}

std::vector<optim::StateArray> TrainerState::arrays() {
  std::vector<optim::StateArray> out;
  for (Array& array : arrays_) out.push_back({array.name, array.dtype, array.shape, array.bytes});
  return out;
}

Status restore_trainer(const Checkpoint& checkpoint, Trainer& trainer, SpikeDetector& detector,
                       int64_t* num_rollbacks) {
  CACHALOT_ASSIGN_OR_RETURN(const StreamPosition position, read_position(checkpoint));
  int64_t steps_left = 0;
  std::map<int64_t, StepChoices> ahead;
  CACHALOT_RETURN_IF_ERROR(read_anticipation(checkpoint, &steps_left, &ahead));
  CACHALOT_ASSIGN_OR_RETURN(std::deque<SpikeDetector::Point> history, read_history(checkpoint));
  const std::string origin = checkpoint.directory() + "/trainer.json";
  formats::JsonFields fields(checkpoint.trainer(), origin);
  fields.integer("num_rollbacks", num_rollbacks, 0, kMax, true);
  CACHALOT_RETURN_IF_ERROR(fields.status());
  CACHALOT_RETURN_IF_ERROR(checkpoint.restore(trainer.parameters(), trainer.optimizer().state()));
  detector.restore(std::move(history));
  return trainer.restore(position, steps_left, std::move(ahead));
}

}  // namespace cachalot::train
