#include "apps/logits.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "apps/command_line.h"
#include "apps/model_argument.h"
#include "apps/run_options.h"
#include "apps/verbs.h"
#include "engine/engine.h"
#include "formats/safetensors.h"
#include "formats/safetensors_writer.h"

namespace cachalot::apps {
namespace {

constexpr int64_t kDefaultChunk = 512;

struct InputIds {
  int64_t batch = 0;
  int64_t length = 0;
  std::vector<int32_t> ids;  // [batch, length]
};

Result<InputIds> read_ids(const std::string& path, const formats::ModelConfig& config) {
  CACHALOT_ASSIGN_OR_RETURN(const formats::SafetensorsFile file,
                            formats::SafetensorsFile::open(path));
  const tensor::TensorView* view = file.find("input_ids");
  if (view == nullptr)
    return not_found(fmt::format("{}: expected a tensor input_ids, found none", path));
  if (view->dtype != tensor::DType::i32 && view->dtype != tensor::DType::i64) {
    return invalid_argument(fmt::format("{}: input_ids: expected I32 or I64, found {}", path,
                                        tensor::dtype_name(view->dtype)));
  }
  if ((view->shape.size() != 1 && view->shape.size() != 2) ||
      tensor::num_elements(view->shape) == 0) {
    return invalid_argument(
        fmt::format("{}: input_ids: expected a shape [t] or [b, t] that is not empty, found {}",
                    path, tensor::shape_string(view->shape)));
  }
  InputIds input;
  input.batch = view->shape.size() == 2 ? view->shape[0] : 1;
  input.length = view->shape.back();
  if (input.length > config.max_position_embeddings) {
    return invalid_argument(fmt::format("{}: input_ids: expected at most {} tokens, found {}", path,
                                        config.max_position_embeddings, input.length));
  }
  for (const int64_t id : tensor::to_integers(*view)) {
    if (id < 0 || id >= config.vocab_size) {
      return invalid_argument(fmt::format("{}: input_ids[{}]: expected an id in [0, {}), found {}",
                                          path, input.ids.size(), config.vocab_size, id));
    }
    input.ids.push_back(static_cast<int32_t>(id));
  }
  return input;
}

Result<std::vector<int64_t>> chunks_for(const LogitsOptions& options, int64_t length) {
  if (options.chunks.empty()) {
    std::vector<int64_t> chunks(static_cast<size_t>(length / kDefaultChunk), kDefaultChunk);
    if (length % kDefaultChunk != 0) chunks.push_back(length % kDefaultChunk);
    return chunks;
  }
  int64_t left = length;
  for (const int64_t chunk : options.chunks) {
    if (chunk < 1)
      return invalid_argument(
          fmt::format("--chunks: expected numbers of at least 1, found {}", chunk));
    left -= std::min(chunk, left + 1);  // a sum past the end must not wrap round
  }
  if (left != 0) {
    return invalid_argument(
        fmt::format("--chunks: expected a sum of {}, the tokens of input_ids, found {}", length,
                    fmt::join(options.chunks, "+")));
  }
  return options.chunks;
}

// One sequence, its logits row by row into the writer. A chunk is a request: it runs at once.
Status run_sequence(engine::Engine& engine, std::span<const int32_t> ids,
                    std::span<const int64_t> chunks, formats::SafetensorsWriter& writer) {
  CACHALOT_ASSIGN_OR_RETURN(const engine::SequenceId sequence, engine.open());
  Status written;
  for (const int64_t chunk : chunks) {
    engine::Request request;
    request.prompt.assign(ids.begin(), ids.begin() + chunk);
    request.max_new_tokens = 0;
    request.on_prompt_logits = [&](int64_t, std::span<const float> logits) {
      written = writer.write(std::as_bytes(logits));
      return written.ok();
    };
    CACHALOT_RETURN_IF_ERROR(engine.generate(sequence, std::move(request)).error());
    CACHALOT_RETURN_IF_ERROR(written);
    ids = ids.subspan(static_cast<size_t>(chunk));
  }
  engine.close(sequence);
  return {};
}

}  // namespace

Status write_logits(const LogitsOptions& options) {
  engine::EngineOptions engine_options;
  engine_options.model = {options.model, options.precision, options.device, options.threads};
  if (options.precision == "auto") {
    CACHALOT_ASSIGN_OR_RETURN(engine_options.model.precision, natural_precision(options.model));
  }
  CACHALOT_ASSIGN_OR_RETURN(std::unique_ptr<engine::LoadedModel> model,
                            engine::LoadedModel::load(engine_options.model));
  const formats::ModelConfig config = model->transformer().config();
  CACHALOT_ASSIGN_OR_RETURN(const InputIds input, read_ids(options.ids, config));
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<int64_t> chunks, chunks_for(options, input.length));
  engine_options.max_sequences = 1;
  engine_options.max_context_tokens = input.length;
  engine_options.cache_bytes = 0;
  engine_options.prefill_chunk_tokens = *std::max_element(chunks.begin(), chunks.end());
  CACHALOT_ASSIGN_OR_RETURN(const std::unique_ptr<engine::Engine> engine,
                            engine::Engine::create(std::move(model), engine_options));

  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(options.out));
  CACHALOT_ASSIGN_OR_RETURN(
      formats::SafetensorsWriter writer,
      formats::SafetensorsWriter::begin(
          &file, {{"logits", tensor::DType::f32, {input.batch, input.length, config.vocab_size}}},
          {{"precision", engine_options.model.precision}}));
  for (int64_t b = 0; b < input.batch; ++b) {
    const auto ids = std::span(input.ids).subspan(static_cast<size_t>(b * input.length),
                                                  static_cast<size_t>(input.length));
    CACHALOT_RETURN_IF_ERROR(run_sequence(*engine, ids, chunks, writer));
  }
  CACHALOT_RETURN_IF_ERROR(writer.finish());
  return file.commit();
}

void add_logits_verb(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand("logits", "logits of every position of given token ids");
  set_example(command,
              "logits models/nano --ids ids.safetensors --out logits.safetensors --chunks 100,1,1");
  auto options = std::make_shared<LogitsOptions>();
  add_model_option(command, "model", &options->model, "model directory")->required();
  command->add_option("--ids", options->ids, "safetensors file with input_ids [t] or [b, t]")
      ->required();
  command->add_option("--out", options->out, "safetensors file to write: logits [b, t, vocab_size]")
      ->required();
  command->add_option("--chunks", options->chunks, "tokens that run at once: 100,1,1,7")
      ->delimiter(',');
  command
      ->add_option(
          "--precision", options->precision,
          "exact, bf16, official or, with cuda, official-fp8 (auto: what the checkpoint was made "
          "for)")
      ->check(CLI::IsMember({"auto", "exact", "bf16", "official", "official-fp8"}));
  command->add_option("--device", options->device, "cpu, cuda or cuda:N");
  command->add_option("--threads", options->threads, "0: one per usable core")
      ->check(CLI::Range(0, 1024));
  command->callback([options, exit_code] { *exit_code = exit_code_of(write_logits(*options)); });
}

}  // namespace cachalot::apps
