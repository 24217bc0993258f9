#include "verify/golden_gradient_file.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>

#include "verify/digest.h"
#include "verify/expected_file.h"
#include "verify/golden_report.h"

namespace cachalot::verify {
namespace {

GradientDistance whole_distance(std::span<const float> expected, std::span<const float> found,
                                const tensor::Shape& shape) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double e = expected[i];
    error += (found[i] - e) * (found[i] - e);
    norm += e * e;
  }
  return {std::sqrt(error), std::sqrt(norm), describe(worst_element(expected, found), shape)};
}

Status shape_error(const std::string& path, const std::string& name, const std::string& expected,
                   const tensor::TensorView& found) {
  return invalid_argument(fmt::format("{}: {}: expected {}, found {} {}", path, name, expected,
                                      tensor::dtype_name(found.dtype),
                                      tensor::shape_string(found.shape)));
}

}  // namespace

Result<std::unique_ptr<GoldenGradientFile>> GoldenGradientFile::open(const std::string& directory) {
  for (const char* name : {"grads.safetensors", "grad_digests.safetensors"}) {
    const std::string path = (std::filesystem::path(directory) / name).string();
    if (!has_expected(path)) continue;
    CACHALOT_ASSIGN_OR_RETURN(formats::SafetensorsFile file, open_expected(path));
    const bool whole = std::string_view(name) == "grads.safetensors";
    return std::unique_ptr<GoldenGradientFile>(new GoldenGradientFile(std::move(file), whole));
  }
  return std::unique_ptr<GoldenGradientFile>();
}

Result<GradientDistance> GoldenGradientFile::distance(const train::Parameter& parameter) const {
  const tensor::TensorView* view = file_.find(parameter.info.name);
  if (view == nullptr) {
    const std::vector<float> zeros(parameter.grad.size());
    return whole_distance(zeros, parameter.grad, parameter.info.shape);
  }
  if (whole_) {
    if (view->num_elements() != static_cast<int64_t>(parameter.grad.size())) {
      return shape_error(file_.path(), parameter.info.name,
                         tensor::shape_string(parameter.info.shape), *view);
    }
    return whole_distance(tensor::to_floats(*view), parameter.grad, parameter.info.shape);
  }
  const int64_t num_sums = view->num_elements() - 1;
  if (view->dtype != tensor::DType::f64 || num_sums < 1 || num_sums > kMaxSums) {
    return shape_error(file_.path(), parameter.info.name,
                       fmt::format("F64, a norm and 1 to {} sums", kMaxSums), *view);
  }
  const std::vector<double> digest = to_doubles(*view);
  const std::span sums = std::span(digest).subspan(1);
  const std::vector<double> found = signed_sums(parameter.grad, num_sums);
  return GradientDistance{estimated_distance(sums, found), digest[0],
                          fmt::format("estimated from {} sums", num_sums)};
}

Result<std::vector<float>> GoldenGradientFile::another(const train::Parameter& parameter) const {
  const tensor::TensorView* view = file_.find(parameter.info.name);
  if (view == nullptr) return parameter.grad;
  CACHALOT_ASSIGN_OR_RETURN(const GradientDistance d, distance(parameter));
  return whole_ ? tensor::to_floats(*view) : moved(parameter.grad, d.error);
}

}  // namespace cachalot::verify
