#include "verify/golden_gradient_file.h"

#include <gtest/gtest.h>

#include <cmath>

#include "formats/safetensors_writer.h"
#include "formats/test_checkpoint.h"
#include "verify/digest.h"

namespace cachalot::verify {
namespace {

template <typename T>
void write(const std::string& path, tensor::DType dtype, const std::vector<T>& values) {
  const std::vector<formats::TensorSpec> specs = {
      {"w", dtype, {static_cast<int64_t>(values.size())}}};
  const std::vector<std::span<const std::byte>> data = {std::as_bytes(std::span(values))};
  ASSERT_TRUE(formats::write_safetensors(path, specs, data).ok());
}

train::Parameter parameter(const std::string& name, std::vector<float> gradient) {
  train::Parameter p;
  p.info.name = name;
  p.info.shape = {static_cast<int64_t>(gradient.size())};
  p.grad = std::move(gradient);
  return p;
}

const std::vector<float> kGolden = {3, 0, -4};

TEST(GoldenGradientFile, WholeGradients) {
  const formats::TemporaryDirectory work("golden-gradients");
  EXPECT_EQ(GoldenGradientFile::open(work.path()).value(), nullptr);
  write(work.path("grads.safetensors"), tensor::DType::f32, kGolden);
  const auto file = GoldenGradientFile::open(work.path()).value();
  const GradientDistance d = file->distance(parameter("w", {3, 0.5f, -4})).value();
  EXPECT_EQ(d.norm, 5);
  EXPECT_EQ(d.error, 0.5);
  EXPECT_EQ(d.detail, "worst 0.5 at [1], expected 0, found 0.5");
  EXPECT_EQ(file->another(parameter("w", {3, 0.5f, -4})).value(), kGolden);
  // Not in the file: a gradient of zero.
  EXPECT_EQ(file->distance(parameter("v", {0, 2})).value().error, 2);
  EXPECT_EQ(file->distance(parameter("v", {0, 0})).value().error, 0);
  EXPECT_FALSE(file->distance(parameter("w", {3, 0})).has_value());
}

TEST(GoldenGradientFile, Digests) {
  const formats::TemporaryDirectory work("golden-digests");
  std::vector<double> digest = {5};
  for (const double sum : signed_sums(kGolden, 16)) digest.push_back(sum);
  write(work.path("grad_digests.safetensors"), tensor::DType::f64, digest);
  const auto file = GoldenGradientFile::open(work.path()).value();
  const GradientDistance d = file->distance(parameter("w", {3, 0.5f, -4})).value();
  EXPECT_EQ(d.norm, 5);
  EXPECT_EQ(d.error, 0.5);  // of a single element, exact
  const std::vector<float> other = file->another(parameter("w", {3, 0.5f, -4})).value();
  double squares = 0;
  for (size_t i = 0; i < 3; ++i)
    squares += std::pow(other[i] - std::vector<float>{3, 0.5f, -4}[i], 2);
  EXPECT_NEAR(squares, 0.25, 1e-6);
}

TEST(GoldenGradientFile, RefusesADigestThatIsNone) {
  const formats::TemporaryDirectory work("golden-no-digest");
  write(work.path("grad_digests.safetensors"), tensor::DType::f32, kGolden);
  const auto found =
      GoldenGradientFile::open(work.path()).value()->distance(parameter("w", kGolden));
  ASSERT_FALSE(found.has_value());
  EXPECT_NE(found.error().message().find("w: expected F64, a norm and 1 to 32 sums, found F32 [3]"),
            std::string::npos)
      << found.error().message();
}

}  // namespace
}  // namespace cachalot::verify
