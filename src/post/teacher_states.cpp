#include "post/teacher_states.h"

#include <fmt/format.h>

#include "base/check.h"
#include "numeric/formats.h"

namespace cachalot::post {
namespace {

constexpr char kSamples[] = "samples", kOffsets[] = "offsets", kStates[] = "states";

}  // namespace

Result<TeacherStatesWriter> TeacherStatesWriter::create(const std::string& path,
                                                        std::span<const SampleRows> samples,
                                                        int64_t hidden_size, StateType type) {
  std::vector<int64_t> ids, offsets = {0};
  for (const SampleRows& sample : samples) {
    ids.push_back(sample.id);
    offsets.push_back(offsets.back() + sample.rows);
  }
  const std::vector<formats::TensorSpec> specs = {
      {kSamples, tensor::DType::i64, {std::ssize(ids)}},
      {kOffsets, tensor::DType::i64, {std::ssize(offsets)}},
      {kStates,
       type == StateType::f32 ? tensor::DType::f32 : tensor::DType::bf16,
       {offsets.back(), hidden_size}}};
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile created, AtomicFile::create(path));
  auto file = std::make_unique<AtomicFile>(std::move(created));
  CACHALOT_ASSIGN_OR_RETURN(formats::SafetensorsWriter writer,
                            formats::SafetensorsWriter::begin(file.get(), specs, {}));
  CACHALOT_RETURN_IF_ERROR(writer.write(std::as_bytes(std::span(ids))));
  CACHALOT_RETURN_IF_ERROR(writer.write(std::as_bytes(std::span(offsets))));
  return TeacherStatesWriter(std::move(file), std::move(writer), type);
}

Status TeacherStatesWriter::add(std::span<const float> states) {
  if (type_ == StateType::f32) return writer_.write(std::as_bytes(states));
  std::vector<uint16_t> rounded;
  rounded.reserve(states.size());
  for (const float value : states) rounded.push_back(numeric::bf16_from_float(value));
  return writer_.write(std::as_bytes(std::span(rounded)));
}

Status TeacherStatesWriter::finish() {
  CACHALOT_RETURN_IF_ERROR(writer_.finish());
  return file_->commit();
}

Result<TeacherStates> TeacherStates::open(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(formats::SafetensorsFile file, formats::SafetensorsFile::open(path));
  TeacherStates states(std::move(file));
  CACHALOT_RETURN_IF_ERROR(states.parse());
  return states;
}

Status TeacherStates::parse() {
  const auto fail = [&](std::string_view what, std::string_view expected) {
    return data_loss(
        fmt::format("{}: {}: expected {}, found none or another", file_.path(), what, expected));
  };
  const tensor::TensorView* samples = file_.find(kSamples);
  const tensor::TensorView* offsets = file_.find(kOffsets);
  states_ = file_.find(kStates);
  if (samples == nullptr || samples->dtype != tensor::DType::i64 || samples->shape.size() != 1)
    return fail(kSamples, "I64 [n]");
  const int64_t count = samples->shape[0];
  if (offsets == nullptr || offsets->dtype != tensor::DType::i64 ||
      offsets->shape != tensor::Shape{count + 1})
    return fail(kOffsets, "I64 [n + 1]");
  if (states_ == nullptr || states_->shape.size() != 2 || states_->shape[1] < 1 ||
      (states_->dtype != tensor::DType::f32 && states_->dtype != tensor::DType::bf16))
    return fail(kStates, "F32 or BF16 [rows, hidden_size]");
  hidden_size_ = states_->shape[1];
  const std::vector<int64_t> ids = tensor::to_integers(*samples);
  const std::vector<int64_t> rows = tensor::to_integers(*offsets);
  for (int64_t i = 0; i < count; ++i) {
    if (rows[i] < 0 || rows[i + 1] < rows[i] || rows[i + 1] > states_->shape[0])
      return fail(kOffsets, "rows in ascending order");
    if (!samples_.emplace(ids[i], Rows{rows[i], rows[i + 1] - rows[i]}).second)
      return fail(kSamples, "distinct ids");
  }
  return {};
}

Result<tensor::TensorView> TeacherStates::of(int64_t sample) const {
  const auto found = samples_.find(sample);
  if (found == samples_.end()) {
    return not_found(
        fmt::format("{}: expected states of sample {}, found none", file_.path(), sample));
  }
  tensor::TensorView rows = *states_;
  rows.shape = {found->second.count, hidden_size_};
  rows.data += found->second.first * hidden_size_ * tensor::dtype_bytes(rows.dtype);
  return rows;
}

}  // namespace cachalot::post
