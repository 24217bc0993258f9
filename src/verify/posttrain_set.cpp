#include "verify/posttrain_set.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "formats/weight_source.h"
#include "verify/digest.h"

namespace cachalot::verify {
namespace {

constexpr uint32_t kSignSeeds[] = {0x1234567, 0x89ABCDE};

// [norm, largest, sums with signs]
std::array<double, 4> digest_of(std::span<const float> values) {
  std::array<double, 4> digest{};
  for (size_t i = 0; i < values.size(); ++i) {
    const double value = values[i];
    digest[0] += value * value;
    digest[1] = std::max(digest[1], std::abs(value));
    for (size_t k = 0; k < 2; ++k) {
      const bool negative = posttrain_hash(static_cast<uint32_t>(i) ^ kSignSeeds[k]) >> 31 != 0;
      digest[2 + k] += negative ? -value : value;
    }
  }
  digest[0] = std::sqrt(digest[0]);
  return digest;
}

// The distance of a gradient from the golden one, whose norm is digest[0].
double distance(std::span<const float> found, std::span<const double> digest,
                const std::vector<float>* whole) {
  if (whole != nullptr) {
    double squares = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double difference = static_cast<double>(found[i]) - static_cast<double>((*whole)[i]);
      squares += difference * difference;
    }
    return std::sqrt(squares);
  }
  const std::array<double, 4> own = digest_of(found);
  // Norm and largest magnitude cannot differ by more than the distance.
  return std::max({estimated_distance(digest.subspan(2), std::span(own).subspan(2)),
                   std::abs(own[0] - digest[0]), std::abs(own[1] - digest[1])});
}

}  // namespace

uint32_t posttrain_hash(uint32_t x) {
  x ^= x >> 16;
  x *= 0x7FEB352D;
  x ^= x >> 15;
  x *= 0x846CA68B;
  return x ^ x >> 16;
}

Result<std::unique_ptr<PosttrainModel>> PosttrainModel::load(device::ExecContext& ctx,
                                                             const std::string& directory) {
  CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                            formats::WeightSource::open(directory));
  CACHALOT_ASSIGN_OR_RETURN(train::ParameterStore parameters,
                            train::ParameterStore::from_checkpoint(source));
  std::unique_ptr<PosttrainModel> made(new PosttrainModel{ctx, std::move(parameters), nullptr});
  CACHALOT_ASSIGN_OR_RETURN(made->model,
                            train::TrainingModel::create(ctx, source.config(), made->parameters,
                                                         train::TrainingPrecision::fp32()));
  return made;
}

void PosttrainModel::gradients(std::span<const train::Sample> samples, train::LogitsLoss& loss,
                               model::TrainingTerms* terms) {
  parameters.clear_grads(ctx);
  model->add_gradients(ctx, samples, loss, terms);
  parameters.finish_grads(ctx);
}

PosttrainSequences::PosttrainSequences(GoldenTensors& file, const formats::ModelConfig& config) {
  for (const int64_t id : file.integers("tokens")) {
    if (id < 0 || id >= config.vocab_size)
      file.fail("tokens", fmt::format("ids below {}", config.vocab_size), std::to_string(id));
    tokens_.push_back(static_cast<int32_t>(id));
  }
  const std::vector<int64_t> prompts = file.integers("prompt_lengths");
  const auto count = static_cast<int64_t>(prompts.size());
  const std::vector<int64_t> offsets = file.offsets("offsets", count, num_tokens());
  std::vector<int64_t> responses = {0};
  for (int64_t i = 0; i < count && file.status().ok(); ++i) {
    const int64_t length = offsets[i + 1] - offsets[i];
    if (prompts[i] < 1 || prompts[i] > length) {
      file.fail("prompt_lengths", fmt::format("1 to the sequence's {}", length),
                std::to_string(prompts[i]));
    }
    responses.push_back(responses.back() + length - prompts[i]);
  }
  if (file.offsets("response_offsets", count, responses.back()) != responses && file.status().ok())
    file.fail("response_offsets", "the lengths of the sequences less their prompts'", "others");
  if (!file.status().ok()) return;
  response_offsets_ = responses;
  labels_.assign(tokens_.size(), -1);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t t = offsets[i] + prompts[i]; t < offsets[i + 1]; ++t) {
      labels_[t - 1] = tokens_[t];
      responses_.push_back(tokens_[t]);
    }
    const auto first = static_cast<size_t>(offsets[i]);
    const auto length = static_cast<size_t>(offsets[i + 1]) - first;
    samples_.push_back(
        {std::span(tokens_).subspan(first, length), std::span(labels_).subspan(first, length)});
  }
}

Status verify_gradients(const std::string& what, const train::ParameterStore& parameters,
                        const GoldenJson& digests, const GoldenTensors* whole,
                        const GradientBounds& bounds, GoldenReport& report) {
  double errors = 0, norms = 0, worst = 0;
  std::string worst_name = "none";
  int64_t num_compared = 0, num_named = 0;
  for (const train::Parameter& parameter : parameters.parameters()) {
    if (parameter.grad.empty()) continue;
    const std::string& name = parameter.info.name;
    std::vector<double> digest(4);
    const bool named = digests.has(name);
    if (named) digest = digests[name].numbers();
    CACHALOT_RETURN_IF_ERROR(digests.status());
    if (digest.size() != 4)
      return invalid_argument(
          fmt::format("{}: digest of {}: expected 4 numbers, found {}", what, name, digest.size()));
    num_named += named ? 1 : 0;
    std::vector<float> golden;
    const tensor::TensorView* view = whole == nullptr ? nullptr : whole->file().find(name);
    if (view != nullptr) {
      if (view->num_elements() != static_cast<int64_t>(parameter.grad.size())) {
        return invalid_argument(fmt::format("{}: {}: expected {}, found {}", whole->file().path(),
                                            name, tensor::shape_string(parameter.info.shape),
                                            tensor::shape_string(view->shape)));
      }
      golden = tensor::to_floats(*view);
    }
    const double error = distance(parameter.grad, digest, view == nullptr ? nullptr : &golden);
    const bool is_scalar = name.starts_with("hc_") || name.find(".hc_") != std::string::npos
                               ? name.ends_with("_scale")
                               : false;
    const double bound = is_scalar ? bounds.scalar : bounds.one;
    const double share = error == 0 ? 0 : error / (bound * digest[0]);
    errors += error * error;
    norms += digest[0] * digest[0];
    ++num_compared;
    if (!(share <= worst)) {
      worst = share;
      worst_name = fmt::format("{} off by {:.2g} of its norm {:.3g} (bound {})", name,
                               error / digest[0], digest[0], bound);
    }
  }
  const auto num_expected = static_cast<int64_t>(digests.keys().size());
  CACHALOT_RETURN_IF_ERROR(digests.status());
  report.check(worst <= 1 && num_named == num_expected, what + ": gradient of each parameter",
               fmt::format("{} parameters, {} of {} named; worst: {}", num_compared, num_named,
                           num_expected, worst_name));
  const double all = std::sqrt(errors / norms);
  report.check(all <= bounds.all, what + ": all gradients",
               fmt::format("off by {:.2g} of their norm {:.3g} (bound {}){}", all, std::sqrt(norms),
                           bounds.all, whole == nullptr ? ", from digests" : ""));
  return {};
}

}  // namespace cachalot::verify
