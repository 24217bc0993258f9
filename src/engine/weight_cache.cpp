#include "engine/weight_cache.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <xxhash.h>

#include <boost/json/serialize.hpp>
#include <filesystem>

#include "base/env.h"
#include "base/log.h"

namespace cachalot::engine {
namespace {

std::string absolute(const std::string& path) {
  std::error_code error;
  const std::filesystem::path canonical = std::filesystem::canonical(path, error);
  return error ? path : canonical.string();
}

// Every tensor's name, type, shape and place.
uint64_t header_hash(const formats::SafetensorsFile& file) {
  std::string text;
  int64_t offset = 0;
  for (const formats::NamedTensor& tensor : file.tensors()) {
    text += fmt::format("{}\n{} {} {}\n", tensor.name, tensor::dtype_name(tensor.view.dtype),
                        tensor::shape_string(tensor.view.shape), offset);
    offset += tensor.view.num_bytes();
  }
  return XXH3_64bits(text.data(), text.size());
}

int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

}  // namespace

WeightCacheOptions WeightCacheOptions::from_environment() {
  WeightCacheOptions options;
  options.directory = env_cache_dir();
  if (!options.directory.empty()) options.directory += "/packed";
  options.max_bytes = env_cache_gib() << 30;
  return options;
}

WeightCache::WeightCache(const WeightCacheOptions& options, const formats::WeightSource& source,
                         const formats::ModelConfig& config)
    : directory_(options.directory, options.max_bytes), min_bytes_(options.min_bytes) {
  int64_t total = 0;
  for (const formats::SafetensorsFile& file : source.checkpoint().files()) {
    total += static_cast<int64_t>(file.file_bytes());
    files_.emplace_back(absolute(file.path()), header_hash(file));
  }
  if (options.directory.empty() || options.max_bytes == 0 || total < min_bytes_) return;
  config_ = json::serialize(formats::to_json(config));
  identity_ = identity();
  name_ = fmt::format("{:016x}.packed", XXH3_64bits(identity_.data(), identity_.size()));
}

// Empty where a file cannot be looked at.
std::string WeightCache::identity() const {
  std::string text = fmt::format("cpu panels {}\n{}\n", ops::PackedWeight::kLayoutVersion, config_);
  for (const auto& [path, hash] : files_) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) return "";
    text += fmt::format("{} bytes, modified {}, changed {}, header {:016x}: {}\n", info.st_size,
                        nanoseconds(info.st_mtim), nanoseconds(info.st_ctim), hash, path);
  }
  return text;
}

std::optional<model::PackedFile> WeightCache::find() const {
  if (identity_.empty()) return std::nullopt;
  Result<model::PackedFile> file = model::PackedFile::open(directory_.path_of(name_), identity_);
  if (!file) {
    if (file.error().code() ==
        StatusCode::data_loss)  // of a folder that cannot be read, keep() tells
      log_warning(file.error().message() + "; the weights are packed anew");
    return std::nullopt;
  }
  directory_.mark_used(name_);
  return *std::move(file);
}

void WeightCache::keep(const model::PackedStore& store) const {
  if (identity_.empty() || store.is_mapped()) return;
  const model::PackedOrigin origin{identity_, store.weights_fingerprint()};
  const int64_t num_bytes = model::packed_file_bytes(origin, store.packed());
  const Status written = directory_.write(name_, num_bytes, [&](Sink& sink) -> Status {
    log_info(fmt::format("keeping {:.1f} GB of packed weights in {} for the next start",
                         static_cast<double>(num_bytes) * 1e-9, directory_.path_of(name_)));
    CACHALOT_RETURN_IF_ERROR(model::write_packed_file(sink, origin, store.packed()));
    if (identity() != identity_) return cancelled("the checkpoint has changed");
    return {};
  });
  if (!written.ok() && written.code() != StatusCode::cancelled) {
    log_warning("packed weights are not kept, each start packs them anew: " + written.message());
  }
}

}  // namespace cachalot::engine
