#include "formats/manifest.h"

#include <fmt/format.h>

#include <vector>

#include "base/file.h"
#include "base/python_json.h"
#include "base/sha256.h"
#include "formats/json_fields.h"

namespace cachalot::formats {
namespace {

constexpr size_t kMaxManifestBytes = size_t{16} << 20;
constexpr char kFormat[] = "cachalot-training-checkpoint";

Result<json::object> describe_file(const std::string& path) {
  CACHALOT_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::open(path));
  Sha256 hash;
  hash.add(file.bytes());
  json::object out;
  out["bytes"] = static_cast<int64_t>(file.bytes().size());
  out["sha256"] = hash.hex();
  return out;
}

// Of every file of the directory but the manifest itself, by name.
Result<json::object> describe_files(const std::string& directory) {
  CACHALOT_ASSIGN_OR_RETURN(const std::vector<std::string> names, list_directory(directory));
  json::object files;
  for (const std::string& name : names) {
    if (name == "manifest.json") continue;
    CACHALOT_ASSIGN_OR_RETURN(files[name], describe_file(fmt::format("{}/{}", directory, name)));
  }
  return files;
}

Status compare_files(const std::string& directory, const json::object& listed) {
  CACHALOT_ASSIGN_OR_RETURN(const json::object found, describe_files(directory));
  for (const auto& [name, expected] : listed) {
    const json::value* file = found.if_contains(name);
    if (file == nullptr || *file != expected) {
      return data_loss(fmt::format("{}/{}: expected {}, found {}", directory,
                                   std::string_view(name), json_excerpt(expected, 120),
                                   file == nullptr ? "none" : json_excerpt(*file, 120)));
    }
  }
  // A model is one file, or shards and their index.
  const bool sharded = listed.contains("model.safetensors.index.json");
  for (const char* name : {"config.json", "optimizer.safetensors", "trainer.json", "run.toml",
                           sharded ? "model.safetensors.index.json" : "model.safetensors"}) {
    if (!listed.contains(name))
      return data_loss(
          fmt::format("{}/manifest.json: files: expected {}, found none", directory, name));
  }
  for (const auto& [name, file] : found) {
    if (!listed.contains(name))
      return data_loss(
          fmt::format("{}/{}: expected a file of the manifest, found one it does not list",
                      directory, std::string_view(name)));
  }
  return {};
}

}  // namespace

Status write_manifest(const std::string& directory, const Manifest& manifest) {
  json::object out;
  out["format"] = kFormat;
  out["version"] = 1;
  out["step"] = manifest.step;
  out["config_hash"] = manifest.config_hash;
  CACHALOT_ASSIGN_OR_RETURN(out["files"], describe_files(directory));
  return write_file_atomically(directory + "/manifest.json", python_json(out) + "\n");
}

Result<Manifest> read_manifest(const std::string& directory) {
  const std::string path = directory + "/manifest.json";
  CACHALOT_ASSIGN_OR_RETURN(const json::object object, read_json_object(path, kMaxManifestBytes));
  JsonFields fields(object, path);
  std::string format;
  int64_t version = 0;
  Manifest manifest;
  fields.choice("format", &format, {kFormat});
  fields.integer("version", &version, 1, 1, true);
  fields.integer("step", &manifest.step, 0, int64_t{1} << 60, true);
  fields.text("config_hash", &manifest.config_hash);
  const json::object* listed = fields.object("files");
  if (listed == nullptr) fields.fail("files", "an object", "none");
  CACHALOT_RETURN_IF_ERROR(fields.status());
  CACHALOT_RETURN_IF_ERROR(compare_files(directory, *listed));
  return manifest;
}

}  // namespace cachalot::formats
