// random_model CONFIG FOLDER: a model of that configuration with made-up weights and DeepSeek-V4's
// tokenizer, for tests of the server at sizes that no trained model of the repository has.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "base/file.h"
#include "formats/test_checkpoint.h"
#include "text/bpe_trainer.h"
#include "text/tokenizer_v4.h"
#include "tokenizer/v3_vocabulary.h"

namespace cachalot {
namespace {

// Norms are 1 and matrices keep lengths, so that logits are about normal with variance 1.
std::vector<std::byte> contents(const formats::TensorSpec& spec, uint64_t index,
                                int64_t num_experts) {
  std::vector<std::byte> out = formats::random_bytes(spec, index, num_experts);
  const bool is_f32 = spec.dtype == tensor::DType::f32;
  if (!is_f32 && spec.dtype != tensor::DType::bf16) return out;
  const float scale =
      spec.shape.size() < 2 ? 0.0f : std::sqrt(3.0f / static_cast<float>(spec.shape.back()));
  const float offset = spec.name.ends_with("norm.weight") ? 1.0f : 0.0f;
  for (int64_t i = 0; i < tensor::num_elements(spec.shape); ++i) {
    std::byte* at = out.data() + i * (is_f32 ? 4 : 2);
    if (is_f32) {
      float value = 0;
      std::memcpy(&value, at, 4);
      value = value * scale + offset;
      std::memcpy(at, &value, 4);
    } else {
      uint16_t half = 0;
      std::memcpy(&half, at, 2);
      half = numeric::bf16_from_float(numeric::float_from_bf16(half) * scale + offset);
      std::memcpy(at, &half, 2);
    }
  }
  return out;
}

Status write_model(const std::string& config_path, const std::string& folder) {
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(config_path));
  CACHALOT_ASSIGN_OR_RETURN(const formats::ModelConfig config,
                            formats::parse_config(text, config_path));
  std::filesystem::create_directories(folder);
  CACHALOT_RETURN_IF_ERROR(write_file_atomically(folder + "/config.json", text));
  CACHALOT_ASSIGN_OR_RETURN(text::TokenizerSpec tokenizer,
                            text::parse_tokenizer_json(text::v3_tokenizer_json(), "tokenizer"));
  tokenizer.added_tokens = text::v4_added_tokens();
  CACHALOT_RETURN_IF_ERROR(
      write_file_atomically(folder + "/tokenizer.json", text::tokenizer_json(tokenizer)));
  CACHALOT_ASSIGN_OR_RETURN(
      formats::CheckpointWriter writer,
      formats::CheckpointWriter::create(folder, formats::stored_tensors(config),
                                        std::numeric_limits<int64_t>::max()));
  for (const size_t i : writer.order())
    CACHALOT_RETURN_IF_ERROR(writer.write(contents(writer.next(), i, config.n_routed_experts)));
  return writer.finish();
}

}  // namespace
}  // namespace cachalot

int main(int argc, char** argv) {
  if (argc != 3) {
    fmt::print(stderr, "random_model: expected CONFIG FOLDER, found {} arguments\n", argc - 1);
    return 2;
  }
  const cachalot::Status status = cachalot::write_model(argv[1], argv[2]);
  if (!status.ok()) fmt::print(stderr, "random_model: {}\n", status.message());
  return status.ok() ? 0 : 1;
}
