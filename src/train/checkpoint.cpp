#include "train/checkpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "base/log.h"
#include "base/python_json.h"
#include "formats/json_fields.h"
#include "formats/manifest.h"
#include "formats/safetensors_writer.h"
#include "formats/weight_source.h"

namespace cachalot::train {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxShardBytes = 5'000'000'000;
constexpr size_t kMaxTrainerBytes = size_t{16} << 20;
constexpr char kPrefix[] = "step-";
constexpr char kAside[] = ".aside-";        // what is being written or removed
constexpr char kReplaced[] = ".replaced-";  // whole, and the step's until its successor is in place

Status failed(const std::string& path, std::string_view what, const std::error_code& error) {
  return io_error(fmt::format("{}: {}: {}", path, what, error.message()));
}

fs::path checkpoints_of(const std::string& run_dir) { return fs::path(run_dir) / "checkpoints"; }

std::string checkpoint_name(int64_t step) { return fmt::format("{}{:010}", kPrefix, step); }

// Of a name as written; others are not checkpoints.
std::optional<int64_t> step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = std::string_view(name).substr(sizeof(kPrefix) - 1);
  int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || end != digits.data() + digits.size() || step < 0) return std::nullopt;
  if (checkpoint_name(step) != name) return std::nullopt;
  return step;
}

// The configuration of the masters' files.
formats::ModelConfig float_config(formats::ModelConfig config) {
  config.torch_dtype = "float32";
  config.quantization_config = {};
  config.expert_dtype = formats::ExpertDType::none;
  return config;
}

Status write_model(const std::string& directory, const CheckpointContents& c) {
  const formats::ModelConfig config = float_config(c.config);
  CACHALOT_RETURN_IF_ERROR(write_file_atomically(directory + "/config.json",
                                                 python_json(formats::to_json(config)) + "\n"));
  CACHALOT_ASSIGN_OR_RETURN(formats::CheckpointWriter writer,
                            formats::CheckpointWriter::create(
                                directory, formats::stored_tensors(config), kMaxShardBytes));
  for (size_t i = 0; i < writer.order().size(); ++i) {
    const std::string& name = writer.next().name;
    if (const std::vector<int32_t>* table = c.parameters.table(name)) {
      const std::vector<int64_t> ids(table->begin(), table->end());
      CACHALOT_RETURN_IF_ERROR(writer.write(std::as_bytes(std::span(ids))));
    } else {
      const Parameter* parameter = c.parameters.find(name);
      CACHALOT_CHECK_MSG(parameter != nullptr, name);
      CACHALOT_RETURN_IF_ERROR(writer.write(std::as_bytes(std::span(parameter->master))));
    }
  }
  return writer.finish();
}

Status write_arrays(const std::string& path, const std::vector<optim::StateArray>& arrays) {
  std::vector<formats::TensorSpec> specs;
  for (const optim::StateArray& array : arrays)
    specs.push_back({array.name, array.dtype, array.shape});
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  CACHALOT_ASSIGN_OR_RETURN(formats::SafetensorsWriter writer,
                            formats::SafetensorsWriter::begin(&file, specs, {}));
  for (const optim::StateArray& array : arrays) CACHALOT_RETURN_IF_ERROR(writer.write(array.bytes));
  CACHALOT_RETURN_IF_ERROR(writer.finish());
  return file.commit();
}

Status rename_directory(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  return error ? failed(to.string(), "rename", error) : sync_directory(to.parent_path().string());
}

// Out of sight first: what is half removed is no checkpoint.
Status remove_checkpoint(const fs::path& directory) {
  const fs::path aside = directory.parent_path() / (kAside + directory.filename().string());
  std::error_code error;
  fs::remove_all(aside, error);
  CACHALOT_RETURN_IF_ERROR(rename_directory(directory, aside));
  fs::remove_all(aside, error);
  return error ? failed(aside.string(), "remove", error) : Status();
}

// What a kill has left. A replaced checkpoint without a successor is the step's again.
Status remove_leftovers(const fs::path& checkpoints) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                            list_directory(checkpoints.string()));
  for (const std::string& name : names) {
    const bool replaced = name.starts_with(kReplaced);
    if (!replaced && !name.starts_with(kAside)) continue;
    std::error_code error;
    const fs::path path = checkpoints / name;
    const fs::path own = checkpoints / name.substr(replaced ? sizeof(kReplaced) - 1 : 0);
    if (replaced && !fs::exists(own, error) && !error) {
      CACHALOT_RETURN_IF_ERROR(rename_directory(path, own));
      continue;
    }
    if (!error) fs::remove_all(path, error);
    if (error) return failed(path.string(), "remove", error);
  }
  return {};
}

// `to` is there, whole, before and after and at every moment between, or where the file system
// cannot exchange names under one that remove_leftovers gives back.
Status replace_directory(const fs::path& from, const fs::path& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    CACHALOT_RETURN_IF_ERROR(sync_directory(to.parent_path().string()));
  } else if (errno == EINVAL || errno == ENOSYS) {
    const fs::path replaced = to.parent_path() / (kReplaced + to.filename().string());
    CACHALOT_RETURN_IF_ERROR(rename_directory(to, replaced));
    CACHALOT_RETURN_IF_ERROR(rename_directory(from, to));
  } else {
    return failed(to.string(), "exchange", {errno, std::generic_category()});
  }
  return remove_leftovers(to.parent_path());
}

Status check_array(const std::string& path, const optim::StateArray& target,
                   const tensor::TensorView* found) {
  if (found != nullptr && found->dtype == target.dtype && found->shape == target.shape) return {};
  return invalid_argument(
      fmt::format("{}: {}: expected {} {}, found {}", path, target.name,
                  tensor::dtype_name(target.dtype), tensor::shape_string(target.shape),
                  found == nullptr ? "none"
                                   : fmt::format("{} {}", tensor::dtype_name(found->dtype),
                                                 tensor::shape_string(found->shape))));
}

Status write_contents(const std::string& directory, const CheckpointContents& contents) {
  CACHALOT_RETURN_IF_ERROR(write_model(directory, contents));
  CACHALOT_RETURN_IF_ERROR(write_arrays(directory + "/optimizer.safetensors", contents.arrays));
  CACHALOT_RETURN_IF_ERROR(
      write_file_atomically(directory + "/trainer.json", python_json(contents.trainer) + "\n"));
  CACHALOT_RETURN_IF_ERROR(write_file_atomically(directory + "/run.toml", contents.run_toml));
  if (!contents.tokenizer_json.empty())
    CACHALOT_RETURN_IF_ERROR(
        write_file_atomically(directory + "/tokenizer.json", contents.tokenizer_json));
  if (!contents.generation_config_json.empty())
    CACHALOT_RETURN_IF_ERROR(write_file_atomically(directory + "/generation_config.json",
                                                   contents.generation_config_json));
  return formats::write_manifest(directory, {contents.step, contents.config_hash});
}

}  // namespace

std::string checkpoint_directory(const std::string& run_dir, int64_t step) {
  return (checkpoints_of(run_dir) / checkpoint_name(step)).string();
}

Status save_checkpoint(const std::string& run_dir, const CheckpointContents& contents) {
  const fs::path final_path = checkpoint_directory(run_dir, contents.step);
  const fs::path checkpoints = final_path.parent_path();
  const std::string aside = (checkpoints / fmt::format("{}new", kAside)).string();
  CACHALOT_RETURN_IF_ERROR(create_directories(checkpoints.string()));
  CACHALOT_RETURN_IF_ERROR(remove_leftovers(checkpoints));
  std::error_code error;
  fs::create_directory(aside, error);
  if (error) return failed(aside, "create", error);
  if (const Status written = write_contents(aside, contents); !written.ok()) {
    fs::remove_all(aside, error);
    return written;
  }
  const bool replaces = fs::exists(final_path, error);
  if (error) return failed(final_path.string(), "look up", error);
  return replaces ? replace_directory(aside, final_path) : rename_directory(aside, final_path);
}

std::vector<int64_t> list_checkpoints(const std::string& run_dir) {
  std::vector<int64_t> steps;
  const fs::path checkpoints = checkpoints_of(run_dir);
  const Result<std::vector<std::string>> names = list_directory(checkpoints.string());
  if (!names) return steps;
  for (const std::string& name : *names) {
    std::error_code error;
    const std::optional<int64_t> step = step_of(name);
    if (step && fs::is_directory(checkpoints / name, error)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

Status prune_checkpoints(const std::string& run_dir, int64_t keep_last, int64_t keep_every_steps) {
  CACHALOT_CHECK(keep_last >= 1);
  const std::vector<int64_t> steps = list_checkpoints(run_dir);
  const auto count = static_cast<int64_t>(steps.size());
  for (int64_t i = 0; i < count - keep_last; ++i) {
    if (keep_every_steps > 0 && steps[i] % keep_every_steps == 0) continue;
    CACHALOT_RETURN_IF_ERROR(remove_checkpoint(checkpoint_directory(run_dir, steps[i])));
  }
  return {};
}

Status drop_checkpoints_after(const std::string& run_dir, int64_t step) {
  std::vector<int64_t> steps = list_checkpoints(run_dir);
  // The newest first: a kill in between leaves a run that goes on from before what is left.
  for (auto it = steps.rbegin(); it != steps.rend() && *it > step; ++it)
    CACHALOT_RETURN_IF_ERROR(remove_checkpoint(checkpoint_directory(run_dir, *it)));
  return {};
}

Status set_aside_checkpoints_after(const std::string& run_dir, int64_t step) {
  const std::vector<int64_t> steps = list_checkpoints(run_dir);
  for (auto it = steps.rbegin(); it != steps.rend() && *it > step; ++it) {
    const fs::path from = checkpoint_directory(run_dir, *it);
    const fs::path to = from.parent_path() / ("damaged-" + from.filename().string());
    std::error_code error;
    fs::remove_all(to, error);
    if (error) return failed(to.string(), "remove", error);
    CACHALOT_RETURN_IF_ERROR(rename_directory(from, to));
    log_warning(fmt::format("{}: set aside as {}", from.string(), to.filename().string()));
  }
  return {};
}

Result<Checkpoint> Checkpoint::open(const std::string& directory) {
  CACHALOT_ASSIGN_OR_RETURN(formats::Manifest manifest, formats::read_manifest(directory));
  CACHALOT_ASSIGN_OR_RETURN(
      json::object trainer,
      formats::read_json_object(directory + "/trainer.json", kMaxTrainerBytes));
  CACHALOT_ASSIGN_OR_RETURN(formats::SafetensorsFile arrays,
                            formats::SafetensorsFile::open(directory + "/optimizer.safetensors"));
  return Checkpoint(directory, manifest.step, std::move(manifest.config_hash), std::move(trainer),
                    std::move(arrays));
}

Status Checkpoint::restore(ParameterStore& parameters,
                           const std::vector<optim::StateArray>& arrays) const {
  CACHALOT_ASSIGN_OR_RETURN(const formats::WeightSource source,
                            formats::WeightSource::open(directory_));
  CACHALOT_RETURN_IF_ERROR(refuse_extra(source.unknown_names(), directory_));
  CACHALOT_ASSIGN_OR_RETURN(const ParameterStore stored, ParameterStore::from_checkpoint(source));
  CACHALOT_RETURN_IF_ERROR(parameters.check_same(stored, directory_));
  std::vector<std::string_view> known;
  for (const optim::StateArray& array : arrays) {
    CACHALOT_RETURN_IF_ERROR(check_array(arrays_.path(), array, arrays_.find(array.name)));
    known.push_back(array.name);
  }
  std::sort(known.begin(), known.end());
  for (const formats::NamedTensor& found : arrays_.tensors()) {
    if (found.name.starts_with("trainer.") ||
        std::binary_search(known.begin(), known.end(), std::string_view(found.name)))
      continue;
    return invalid_argument(
        fmt::format("{}: expected no array \"{}\" of this run's optimizer, found one",
                    arrays_.path(), found.name));
  }
  parameters.copy_values(stored);
  for (const optim::StateArray& array : arrays)
    std::memcpy(array.bytes.data(), arrays_.find(array.name)->data, array.bytes.size());
  return {};
}

Result<std::optional<Checkpoint>> open_newest_checkpoint(const std::string& run_dir) {
  std::error_code error;
  if (fs::exists(checkpoints_of(run_dir), error))
    CACHALOT_RETURN_IF_ERROR(remove_leftovers(checkpoints_of(run_dir)));
  const std::vector<int64_t> steps = list_checkpoints(run_dir);
  Status first;
  for (auto it = steps.rbegin(); it != steps.rend(); ++it) {
    Result<Checkpoint> opened = Checkpoint::open(checkpoint_directory(run_dir, *it));
    if (opened) return std::optional<Checkpoint>(*std::move(opened));
    log_warning(opened.error().message());
    if (first.ok()) first = opened.error();
  }
  if (!first.ok()) return first;
  return std::optional<Checkpoint>();
}

}  // namespace cachalot::train
