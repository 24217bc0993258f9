#include "verify/golden_tensors.h"

#include <fmt/format.h>

#include <algorithm>

#include "verify/digest.h"

namespace cachalot::verify {

Result<GoldenTensors> GoldenTensors::open(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(formats::SafetensorsFile file, formats::SafetensorsFile::open(path));
  return GoldenTensors(std::move(file));
}

void GoldenTensors::fail(const std::string& name, const std::string& expected,
                         const std::string& found) {
  if (!status_.ok()) return;
  status_ = invalid_argument(
      fmt::format("{}: {}: expected {}, found {}", file_.path(), name, expected, found));
}

const tensor::TensorView* GoldenTensors::find(const std::string& name, int64_t count,
                                              std::initializer_list<tensor::DType> types) {
  const tensor::TensorView* view = file_.find(name);
  const bool typed =
      view != nullptr && std::find(types.begin(), types.end(), view->dtype) != types.end();
  if (typed && (count < 0 || view->num_elements() == count)) return view;
  std::string expected = count < 0 ? "" : fmt::format("{} elements of ", count);
  for (const tensor::DType type : types)
    expected += fmt::format("{}{}", type == *types.begin() ? "" : " or ", dtype_name(type));
  fail(name, expected,
       view == nullptr
           ? "none"
           : fmt::format("{} {}", dtype_name(view->dtype), tensor::shape_string(view->shape)));
  return nullptr;
}

std::vector<double> GoldenTensors::numbers(const std::string& name, int64_t count) {
  const auto* view = find(name, count, {tensor::DType::f64, tensor::DType::f32});
  if (view == nullptr) return std::vector<double>(static_cast<size_t>(std::max<int64_t>(count, 0)));
  if (view->dtype == tensor::DType::f64) return to_doubles(*view);
  const std::vector<float> values = tensor::to_floats(*view);
  return {values.begin(), values.end()};
}

std::vector<float> GoldenTensors::floats(const std::string& name, int64_t count) {
  const auto* view = find(name, count, {tensor::DType::f32});
  if (view == nullptr) return std::vector<float>(static_cast<size_t>(std::max<int64_t>(count, 0)));
  return tensor::to_floats(*view);
}

std::vector<int64_t> GoldenTensors::integers(const std::string& name, int64_t count) {
  const auto* view = find(name, count, {tensor::DType::i32, tensor::DType::u8});
  if (view == nullptr)
    return std::vector<int64_t>(static_cast<size_t>(std::max<int64_t>(count, 0)));
  return tensor::to_integers(*view);
}

std::vector<int64_t> GoldenTensors::offsets(const std::string& name, int64_t count, int64_t last) {
  std::vector<int64_t> values = integers(name, count + 1);
  if (status_.ok() && (values.front() != 0 || values.back() != last ||
                       !std::is_sorted(values.begin(), values.end()))) {
    fail(name, fmt::format("offsets that ascend from 0 to {}", last),
         fmt::format("{} to {}", values.front(), values.back()));
  }
  if (!status_.ok()) values.assign(static_cast<size_t>(count) + 1, 0);
  return values;
}

}  // namespace cachalot::verify
