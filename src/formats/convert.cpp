#include "formats/convert.h"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "base/file.h"
#include "formats/json_text.h"
#include "formats/tensor_encoder.h"
#include "formats/transformers_files.h"
#include "formats/weight_source.h"

namespace cachalot::formats {
namespace {

namespace fs = std::filesystem;
using tensor::DType;
using Kind = TargetFormat::Kind;
using Stack = CanonicalName::Stack;

constexpr size_t kMaxTextFile = size_t{256} << 20;

// One tensor of the destination: the canonical tensors whose bytes, one after the other, make it.
struct Output {
  TensorSpec spec;
  std::vector<std::string> parts;
};

// Where a weight's preferred scale comes from: the reference checkpoint, else the file beside the
// source, else nowhere.
class PreferredScales {
 public:
  static Result<PreferredScales> open(const std::string& source, const std::string& like) {
    PreferredScales out;
    const std::string file = (fs::path(source) / kScalesFile).string();
    std::error_code error;
    if (!like.empty()) {
      CACHALOT_ASSIGN_OR_RETURN(WeightSource reference, WeightSource::open(like));
      out.like_ = std::make_unique<WeightSource>(std::move(reference));
    } else if (fs::exists(file, error)) {
      CACHALOT_ASSIGN_OR_RETURN(SafetensorsFile scales, SafetensorsFile::open(file));
      out.file_ = std::make_unique<SafetensorsFile>(std::move(scales));
    }
    return out;
  }
  std::optional<tensor::TensorView> find(const std::string& weight) const {
    const std::string name = scale_name(weight);
    if (like_ != nullptr) {
      const auto scale = like_->raw(name);
      return scale ? std::optional(scale->view) : std::nullopt;
    }
    const tensor::TensorView* scale = file_ == nullptr ? nullptr : file_->find(name);
    return scale == nullptr ? std::nullopt : std::optional(*scale);
  }

 private:
  std::unique_ptr<WeightSource> like_;
  std::unique_ptr<SafetensorsFile> file_;
};

class Converter {
 public:
  Converter(const WeightSource* source, TensorEncoder::FindScale preferred,
            const ConvertOptions& options)
      : source_(*source),
        options_(options),
        target_config_(target_config()),
        encoder_(source, std::move(preferred), &summary_) {}

  Status plan();
  Status write(const std::string& directory);
  Status write_scales(const std::string& directory) const;
  Status write_config(const std::string& source, const std::string& destination) const;
  void tell_what_transformers_does_not_read() {
    summary_.unknown_ratios = ratios_unknown_to_transformers(source_.config());
    summary_.is_quantised_there = target_config_.quantization_config.present;
  }
  const ConvertSummary& summary() const { return summary_; }

 private:
  ModelConfig target_config() const;
  Result<TargetFormat> target_of(const TensorInfo& info) const;
  std::vector<TensorSpec> specs_of(const TensorInfo& info, const TargetFormat& target) const;
  Status add(const TensorSpec& canonical);
  Status add_to_stack(const TensorSpec& canonical, const TransformersName& name);

  const WeightSource& source_;
  const ConvertOptions& options_;
  ModelConfig target_config_;
  ConvertSummary summary_;
  TensorEncoder encoder_;
  std::vector<Output> outputs_;
  std::unordered_map<std::string, size_t> stacks_;  // name in the destination -> outputs_
  // canonical name of weight or scale -> format
  std::unordered_map<std::string, TargetFormat> targets_;
};

ModelConfig Converter::target_config() const {
  ModelConfig config = source_.config();
  const bool is_quantized = config.quantization_config.present;
  switch (options_.precision) {
    case ConvertPrecision::keep:
      if (is_quantized && options_.experts == ExpertTarget::fp8)
        config.expert_dtype = ExpertDType::fp8;
      if (is_quantized && options_.experts == ExpertTarget::fp4)
        config.expert_dtype = ExpertDType::fp4;
      break;
    case ConvertPrecision::f32:
    case ConvertPrecision::bf16:
      config.quantization_config.present = false;
      config.expert_dtype = ExpertDType::none;
      config.torch_dtype = options_.precision == ConvertPrecision::f32 ? "float32" : "bfloat16";
      break;
    case ConvertPrecision::quantized:
      config.torch_dtype = "bfloat16";
      if (is_quantized) break;
      config.quantization_config = QuantizationConfig{};
      config.quantization_config.present = true;
      config.expert_dtype = ExpertDType::fp4;
      break;
  }
  return config;
}

Result<TargetFormat> Converter::target_of(const TensorInfo& info) const {
  const QuantizationConfig& q = target_config_.quantization_config;
  const TargetFormat copy;
  const bool is_matrix =
      info.tensor_class == TensorClass::linear || info.tensor_class == TensorClass::expert;
  const DType found = source_.raw(info.name)->view.dtype;
  const bool is_quantised = is_matrix && (found == DType::f8_e4m3 || found == DType::i8);
  const TargetFormat fp8{Kind::fp8, DType::f8_e4m3, q.block_rows, q.block_columns, false};
  const TargetFormat fp4{Kind::fp4, DType::i8, 0, 0, false};
  if (info.tensor_class == TensorClass::table) return copy;
  const ConvertPrecision precision = options_.precision;
  if (precision == ConvertPrecision::keep) {
    if (info.tensor_class != TensorClass::expert || !is_quantised ||
        options_.experts == ExpertTarget::keep)
      return copy;
    TargetFormat recast = options_.experts == ExpertTarget::fp8 ? fp8 : fp4;
    recast.is_recast = true;
    return recast.dtype == found ? copy : recast;
  }
  TargetFormat real{Kind::real, DType::f32, 0, 0, false};
  if (precision == ConvertPrecision::quantized && is_matrix) {
    if (is_quantised) return copy;
    if (info.tensor_class == TensorClass::linear) return fp8;
    return target_config_.expert_dtype == ExpertDType::fp4 ? fp4 : fp8;
  }
  if (precision != ConvertPrecision::f32 && info.tensor_class != TensorClass::f32)
    real.dtype = DType::bf16;
  return real.dtype == found ? copy : real;
}

std::vector<TensorSpec> Converter::specs_of(const TensorInfo& info,
                                            const TargetFormat& target) const {
  const bool is_matrix =
      info.tensor_class == TensorClass::linear || info.tensor_class == TensorClass::expert;
  switch (target.kind) {
    case Kind::copy: {
      std::vector<TensorSpec> out;
      const auto weight = source_.raw(info.name);
      out.push_back({info.name, weight->view.dtype, weight->view.shape});
      if (is_matrix) {
        if (const auto scale = source_.raw(scale_name(info.name))) {
          out.push_back({scale_name(info.name), scale->view.dtype, scale->view.shape});
        }
      }
      return out;
    }
    case Kind::real: return {{info.name, target.dtype, info.shape}};
    case Kind::fp4:
      return {{info.name, DType::i8, {info.shape[0], info.shape[1] / 2}},
              {scale_name(info.name), DType::f8_e8m0, {info.shape[0], info.shape[1] / 32}}};
    case Kind::fp8:
      return {{info.name, DType::f8_e4m3, info.shape},
              {scale_name(info.name),
               DType::f8_e8m0,
               {(info.shape[0] + target.block_rows - 1) / target.block_rows,
                (info.shape[1] + target.block_columns - 1) / target.block_columns}}};
  }
  CACHALOT_CHECK(false);
}

Status Converter::add(const TensorSpec& canonical) {
  if (options_.names == NameFamily::official) {
    outputs_.push_back({canonical, {canonical.name}});
    return {};
  }
  const TransformersName name = transformers_name(canonical.name);
  if (name.stack != Stack::none) return add_to_stack(canonical, name);
  outputs_.push_back({{name.name, canonical.dtype, canonical.shape}, {canonical.name}});
  return {};
}

// Experts come in the order J: w1, w2, w3, so a gate_up stack receives w1, w3 of expert 0, then of
// expert 1, ...
Status Converter::add_to_stack(const TensorSpec& canonical, const TransformersName& name) {
  const int64_t halves = name.stack == Stack::gate_up ? 2 : 1;
  const tensor::Shape shape = {source_.config().n_routed_experts, halves * canonical.shape[0],
                               canonical.shape[1]};
  const auto [it, is_new] = stacks_.emplace(name.name, outputs_.size());
  if (is_new) outputs_.push_back({{name.name, canonical.dtype, shape}, {}});
  Output& output = outputs_[it->second];
  if (output.spec.dtype != canonical.dtype || output.spec.shape != shape) {
    return unsupported(fmt::format(
        "tensor {}: expected {} {} like the layer's other experts, to stack them, found {} {}",
        canonical.name, tensor::dtype_name(output.spec.dtype),
        tensor::shape_string(output.spec.shape), tensor::dtype_name(canonical.dtype),
        tensor::shape_string(shape)));
  }
  CACHALOT_CHECK(static_cast<int64_t>(output.parts.size()) ==
                 name.expert * halves + (name.is_second_half ? 1 : 0));
  output.parts.push_back(canonical.name);
  return {};
}

Status Converter::plan() {
  CACHALOT_RETURN_IF_ERROR(source_.validate());
  const int64_t num_layers = source_.config().num_hidden_layers + source_.num_mtp_blocks();
  for (const TensorInfo& info : source_.inventory()) {
    // A block that is only partly there is copied below, as far as it goes, like any tensor without
    // a meaning here.
    if (info.layer >= num_layers) continue;
    CACHALOT_ASSIGN_OR_RETURN(const TargetFormat target, target_of(info));
    for (const TensorSpec& spec : specs_of(info, target)) {
      targets_[spec.name] = target;
      if (target.kind == Kind::copy) ++summary_.copied_tensors;
      CACHALOT_RETURN_IF_ERROR(add(spec));
    }
  }
  const std::unordered_set<std::string_view> unknown(source_.unknown_names().begin(),
                                                     source_.unknown_names().end());
  for (const Checkpoint::Entry& entry : source_.checkpoint().entries()) {
    const CanonicalName canonical = canonical_name(entry.name);
    if (canonical.stack != Stack::none || targets_.contains(canonical.name)) continue;
    // Scales whose weight is no longer quantised are gone; everything else that has no meaning here
    // is kept.
    const TensorInfo* info = source_.info(canonical.name);
    const bool is_uncounted = info != nullptr && info->layer >= num_layers;
    if (!unknown.contains(entry.name) && !is_uncounted) continue;
    targets_[canonical.name] = TargetFormat{};
    ++summary_.copied_tensors;
    outputs_.push_back(
        {{std::string(entry.name), entry.view->dtype, entry.view->shape, *entry.stored},
         {canonical.name}});
  }
  return {};
}

Status Converter::write(const std::string& directory) {
  std::vector<TensorSpec> specs;
  for (const Output& output : outputs_) {
    specs.push_back(output.spec);
    summary_.total_bytes += output.spec.num_bytes();
  }
  summary_.num_tensors = static_cast<int64_t>(specs.size());
  CACHALOT_ASSIGN_OR_RETURN(
      CheckpointWriter writer,
      CheckpointWriter::create(directory, std::move(specs), options_.max_shard_bytes));
  summary_.num_files = writer.num_files();
  int64_t done = 0;
  for (const size_t i : writer.order()) {
    for (const std::string& part : outputs_[i].parts) {
      CACHALOT_RETURN_IF_ERROR(
          encoder_.encode(part, targets_.at(part), [&](std::span<const std::byte> bytes) {
            done += static_cast<int64_t>(bytes.size());
            return writer.write(bytes);
          }));
    }
    if (options_.progress) options_.progress(done, summary_.total_bytes);
  }
  return writer.finish();
}

// The scales of the weights that became floats.
Status Converter::write_scales(const std::string& directory) const {
  std::vector<TensorSpec> specs;
  std::vector<std::span<const std::byte>> bytes;
  for (const TensorInfo& info : source_.inventory()) {
    const auto target = targets_.find(info.name);
    if (target == targets_.end() || target->second.kind != Kind::real ||
        !info.name.ends_with(".weight"))
      continue;
    const auto scale = source_.raw(scale_name(info.name));
    if (!scale || scale->view.dtype != DType::f8_e8m0) continue;
    specs.push_back({scale_name(info.name), scale->view.dtype, scale->view.shape});
    bytes.push_back(scale->view.bytes());
  }
  if (specs.empty()) return {};
  return write_safetensors((fs::path(directory) / kScalesFile).string(), specs, bytes);
}

// The source's file with the keys that the conversion changed, so that keys unknown here survive.
Status Converter::write_config(const std::string& source, const std::string& destination) const {
  const std::string from = (fs::path(source) / "config.json").string();
  const std::string to = (fs::path(destination) / "config.json").string();
  CACHALOT_ASSIGN_OR_RETURN(const std::string text, read_text_file(from));
  const bool is_recast =
      options_.precision == ConvertPrecision::keep && options_.experts != ExpertTarget::keep;
  CACHALOT_ASSIGN_OR_RETURN(json::value document, parse_json(text, from));
  json::object& object = document.as_object();
  const json::object target = to_json(target_config_);
  // Public names come with public keys.
  if (options_.names == NameFamily::official && object.contains("layer_types"))
    return write_file_atomically(to, to_pretty_json(target));
  if (options_.precision == ConvertPrecision::keep && !is_recast)
    return write_file_atomically(to, text);
  for (const char* key : {"torch_dtype", "expert_dtype", "quantization_config"}) {
    if (target.contains(key)) {
      object[key] = target.at(key);
    } else {
      object.erase(key);
    }
  }
  return write_file_atomically(to, to_pretty_json(document));
}

bool is_companion(const fs::path& path, const ConvertOptions& options) {
  const std::string name = path.filename().string();
  const std::string extension = path.extension().string();
  if (name == "config.json" || name.ends_with(".index.json") || name.starts_with(".")) return false;
  if (name == "manifest.json" || name == "trainer.json") return false;  // of a training checkpoint
  if (name == kScalesFile) return options.precision != ConvertPrecision::quantized;
  return extension == ".json" || extension == ".jinja" || extension == ".txt" ||
         extension == ".md" || name == "LICENSE";
}

Status copy_companions(const std::string& source, const std::string& destination,
                       const ConvertOptions& options) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(source, error)) {
    if (!entry.is_regular_file(error) || !is_companion(entry.path(), options)) continue;
    CACHALOT_ASSIGN_OR_RETURN(const std::string text,
                              read_text_file(entry.path().string(), kMaxTextFile));
    CACHALOT_RETURN_IF_ERROR(
        write_file_atomically((fs::path(destination) / entry.path().filename()).string(), text));
  }
  return {};
}

Status prepare_destination(const std::string& destination) {
  std::error_code error;
  fs::create_directories(destination, error);
  if (!fs::is_directory(destination)) {
    return io_error(fmt::format("{}: create directory: {}", destination, error.message()));
  }
  for (const auto& entry : fs::directory_iterator(destination, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".index.json") || name == "config.json") {
      return invalid_argument(
          fmt::format("{}: expected a directory without a model, found {}", destination, name));
    }
  }
  return {};
}

}  // namespace

Result<ConvertSummary> convert_checkpoint(const std::string& source, const std::string& destination,
                                          const ConvertOptions& options) {
  if (options.max_shard_bytes <= 0) {
    return invalid_argument(fmt::format("max shard bytes: expected a positive number, found {}",
                                        options.max_shard_bytes));
  }
  if (options.experts != ExpertTarget::keep && options.precision != ConvertPrecision::keep) {
    return invalid_argument(
        "experts: expected a recast with the other tensors kept, found a change of precision as "
        "well");
  }
  CACHALOT_ASSIGN_OR_RETURN(const WeightSource weights, WeightSource::open(source));
  CACHALOT_ASSIGN_OR_RETURN(const PreferredScales preferred,
                            PreferredScales::open(source, options.like));
  Converter converter(
      &weights, [&](const std::string& weight) { return preferred.find(weight); }, options);
  CACHALOT_RETURN_IF_ERROR(converter.plan());
  CACHALOT_RETURN_IF_ERROR(prepare_destination(destination));
  CACHALOT_RETURN_IF_ERROR(converter.write(destination));
  CACHALOT_RETURN_IF_ERROR(converter.write_scales(destination));
  CACHALOT_RETURN_IF_ERROR(converter.write_config(source, destination));
  CACHALOT_RETURN_IF_ERROR(copy_companions(source, destination, options));
  if (options.names == NameFamily::transformers) {
    CACHALOT_RETURN_IF_ERROR(write_transformers_files(destination, weights.config()));
    converter.tell_what_transformers_does_not_read();
  }
  return converter.summary();
}

}  // namespace cachalot::formats
