// What the parts of a post-training set share: the model, its sequences, its gradients.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "device/exec_context.h"
#include "train/training_model.h"
#include "verify/golden_json.h"
#include "verify/golden_report.h"
#include "verify/golden_tensors.h"

namespace cachalot::verify {

// The model in fp32 with its gradients. Its parameters' address must stay: made in place.
struct PosttrainModel {
  device::ExecContext& ctx;
  train::ParameterStore parameters;
  std::unique_ptr<train::TrainingModel> model;

  static Result<std::unique_ptr<PosttrainModel>> load(device::ExecContext& ctx,
                                                      const std::string& directory);
  const formats::ModelConfig& config() const { return model->transformer().config(); }
  void gradients(std::span<const train::Sample> samples, train::LogitsLoss& loss,
                 model::TrainingTerms* terms = nullptr);
};

// Sequences one after another; of each the first tokens are the prompt, the others the response.
// Layout  tokens I32, offsets I32 [n + 1], prompt_lengths I32 [n], response_offsets I32 [n + 1].
class PosttrainSequences {
 public:
  // Of the file's; its status tells what is wrong (then there are no sequences).
  PosttrainSequences(GoldenTensors& file, const formats::ModelConfig& config);

  const std::vector<train::Sample>& samples() const { return samples_; }
  int64_t num_sequences() const { return static_cast<int64_t>(samples_.size()); }
  int64_t num_tokens() const { return static_cast<int64_t>(tokens_.size()); }
  const std::vector<int64_t>& response_offsets() const { return response_offsets_; }
  int64_t num_response_tokens() const { return response_offsets_.back(); }
  const std::vector<int32_t>& responses() const { return responses_; }  // of all sequences

 private:
  std::vector<int32_t> tokens_, labels_, responses_;
  std::vector<int64_t> response_offsets_ = {0};
  std::vector<train::Sample> samples_;
};

struct GradientBounds {
  double one;     // of a parameter's norm
  double scalar;  // the same of hc_*_scale, whose few terms cancel
  double all;     // of the norm of all
};

// The parameters' gradients against digests: name -> [norm, largest magnitude, and two sums with
// signs], of which the sums estimate the distance (digest.h says how), or where there is a file,
// against the whole. Those that the set does not name are zero.
Status verify_gradients(const std::string& what, const train::ParameterStore& parameters,
                        const GoldenJson& digests, const GoldenTensors* whole,
                        const GradientBounds& bounds, GoldenReport& report);

// The set's hash of an element's index, by which signs and perturbations are made.
uint32_t posttrain_hash(uint32_t x);

}  // namespace cachalot::verify
