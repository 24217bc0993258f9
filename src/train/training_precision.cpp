#include "train/training_precision.h"

#include <fmt/format.h>

#include "base/check.h"

namespace cachalot::train {

using formats::TensorClass;

model::Precision TrainingPrecision::activations() const {
  switch (level) {
    case Level::fp32: return model::Precision::exact();
    case Level::bf16: return model::Precision::bfloat16();
    case Level::fp8: return model::Precision::official();
  }
  CACHALOT_CHECK(false);
}

Status TrainingPrecision::validate() const {
  if (!qat || level == Level::fp8) return {};
  return invalid_argument("qat: expected precision fp8 with it, found another");
}

Result<TrainingPrecision> parse_training_precision(std::string_view level, bool qat) {
  TrainingPrecision precision;
  if (level == "bf16") {
    precision.level = TrainingPrecision::Level::bf16;
  } else if (level == "fp8") {
    precision.level = TrainingPrecision::Level::fp8;
  } else if (level != "fp32") {
    return invalid_argument(
        fmt::format("precision: expected fp32, bf16 or fp8, found \"{}\"", level));
  }
  precision.qat = qat;
  CACHALOT_RETURN_IF_ERROR(precision.validate());
  return precision;
}

PreparedFormat prepared_format(const TrainingPrecision& precision,
                               const formats::TensorInfo& info) {
  const bool is_f32 = info.tensor_class == TensorClass::f32;
  if (precision.level == TrainingPrecision::Level::fp32 || is_f32) return PreparedFormat::f32;
  if (precision.level == TrainingPrecision::Level::bf16) return PreparedFormat::bf16;
  switch (info.tensor_class) {
    case TensorClass::linear: return PreparedFormat::fp8;
    case TensorClass::expert:
      return precision.qat ? PreparedFormat::fp8_of_fp4 : PreparedFormat::fp8;
    default: return PreparedFormat::bf16;
  }
}

}  // namespace cachalot::train
