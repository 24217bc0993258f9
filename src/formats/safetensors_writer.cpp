#include "formats/safetensors_writer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <cstring>
#include <filesystem>

#include "base/json.h"
#include "formats/json_text.h"

namespace cachalot::formats {
namespace {

constexpr size_t kMaxFiles = 512;  // each keeps a descriptor until the end
constexpr size_t kAlignment = 8;

std::string json_quoted(std::string_view text) { return json::serialize(json::string(text)); }

Status check_unique(const std::vector<TensorSpec>& specs) {
  std::vector<std::string_view> names;
  for (const TensorSpec& spec : specs) names.push_back(spec.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return {};
  return invalid_argument(
      fmt::format("tensor {}: expected each name once, found it twice", *twice));
}

int64_t total_bytes(const std::vector<TensorSpec>& specs) {
  int64_t total = 0;
  for (const TensorSpec& spec : specs) total += spec.num_bytes();
  return total;
}

}  // namespace

std::string safetensors_header_bytes(const std::vector<TensorSpec>& specs,
                                     const Metadata& metadata) {
  std::string text = "{";
  if (!metadata.empty()) {
    text += "\"__metadata__\":{";
    bool first = true;
    for (const auto& [key, value] : metadata) {
      if (!first) text += ",";
      first = false;
      text += json_quoted(key) + ":" + json_quoted(value);
    }
    text += "}";
  }
  int64_t begin = 0;
  for (const TensorSpec& spec : specs) {
    if (text.size() > 1) text += ",";
    const int64_t end = begin + spec.num_bytes();
    const bool is_stored = !spec.stored.dtype.empty();
    text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        json_quoted(spec.name),
                        is_stored ? spec.stored.dtype : tensor::dtype_name(spec.dtype),
                        fmt::join(is_stored ? spec.stored.shape : spec.shape, ","), begin, end);
    begin = end;
  }
  text += "}";
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  const uint64_t length = text.size();
  std::string out(sizeof(length), '\0');
  std::memcpy(out.data(), &length, sizeof(length));
  return out + text;
}

Result<SafetensorsWriter> SafetensorsWriter::begin(Sink* sink, std::vector<TensorSpec> specs,
                                                   const Metadata& metadata) {
  CACHALOT_RETURN_IF_ERROR(check_unique(specs));
  const std::string header = safetensors_header_bytes(specs, metadata);
  CACHALOT_RETURN_IF_ERROR(sink->write(std::as_bytes(std::span(header))));
  return SafetensorsWriter(sink, total_bytes(specs));
}

Status SafetensorsWriter::write(std::span<const std::byte> bytes) {
  CACHALOT_CHECK(static_cast<int64_t>(bytes.size()) <= remaining_);
  CACHALOT_RETURN_IF_ERROR(sink_->write(bytes));
  remaining_ -= static_cast<int64_t>(bytes.size());
  return {};
}

Status SafetensorsWriter::finish() {
  if (remaining_ == 0) return {};
  return data_loss(
      fmt::format("safetensors: expected {} more bytes of data, found the end", remaining_));
}

ShardPlan plan_shards(const std::vector<TensorSpec>& specs, int64_t max_shard_bytes) {
  ShardPlan plan;
  plan.shards.emplace_back();
  int64_t bytes = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    const int64_t size = specs[i].num_bytes();
    if (!plan.shards.back().empty() && size > max_shard_bytes - bytes) {
      plan.shards.emplace_back();
      bytes = 0;
    }
    plan.shards.back().push_back(i);
    bytes += size;
  }
  for (std::vector<size_t>& shard : plan.shards) {
    std::sort(shard.begin(), shard.end(), [&](size_t a, size_t b) {
      const int64_t size_a = tensor::dtype_bytes(specs[a].dtype),
                    size_b = tensor::dtype_bytes(specs[b].dtype);
      return size_a != size_b ? size_a > size_b : specs[a].name < specs[b].name;
    });
  }
  const size_t count = plan.shards.size();
  for (size_t i = 0; i < count; ++i) {
    plan.file_names.push_back(count == 1
                                  ? "model.safetensors"
                                  : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, count));
  }
  return plan;
}

Result<CheckpointWriter> CheckpointWriter::create(const std::string& directory,
                                                  std::vector<TensorSpec> specs,
                                                  int64_t max_shard_bytes,
                                                  const Metadata& metadata) {
  CACHALOT_RETURN_IF_ERROR(check_unique(specs));
  CheckpointWriter writer;
  writer.directory_ = directory;
  writer.specs_ = std::move(specs);
  writer.metadata_ = metadata;
  writer.plan_ = plan_shards(writer.specs_, max_shard_bytes);
  if (writer.plan_.shards.size() > kMaxFiles) {
    return resource_exhausted(
        fmt::format("{}: expected at most {} files, found {} at {} bytes each", directory,
                    kMaxFiles, writer.plan_.shards.size(), max_shard_bytes));
  }
  for (const std::vector<size_t>& shard : writer.plan_.shards) {
    writer.order_.insert(writer.order_.end(), shard.begin(), shard.end());
  }
  return writer;
}

const TensorSpec& CheckpointWriter::next() const {
  CACHALOT_CHECK(position_ < order_.size());
  return specs_[order_[position_]];
}

Status CheckpointWriter::open_shard() {
  const size_t idx = files_.size();
  std::vector<TensorSpec> specs;
  for (size_t i : plan_.shards[idx]) specs.push_back(specs_[i]);
  const std::string path = (std::filesystem::path(directory_) / plan_.file_names[idx]).string();
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  files_.push_back(std::make_unique<AtomicFile>(std::move(file)));
  left_in_shard_ = specs.size();
  CACHALOT_ASSIGN_OR_RETURN(
      SafetensorsWriter writer,
      SafetensorsWriter::begin(files_.back().get(), std::move(specs), metadata_));
  writer_ = std::make_unique<SafetensorsWriter>(std::move(writer));
  return {};
}

Status CheckpointWriter::write(std::span<const std::byte> bytes) {
  if (left_in_tensor_ < 0) {
    left_in_tensor_ = next().num_bytes();
    if (left_in_shard_ == 0) CACHALOT_RETURN_IF_ERROR(open_shard());
  }
  CACHALOT_CHECK(static_cast<int64_t>(bytes.size()) <= left_in_tensor_);
  CACHALOT_RETURN_IF_ERROR(writer_->write(bytes));
  left_in_tensor_ -= static_cast<int64_t>(bytes.size());
  if (left_in_tensor_ == 0) {
    left_in_tensor_ = -1;
    ++position_;
    --left_in_shard_;
  }
  return {};
}

Status CheckpointWriter::finish() {
  if (position_ != order_.size()) {
    return data_loss(
        fmt::format("{}: expected {} tensors, found {}", directory_, order_.size(), position_));
  }
  if (files_.empty())
    CACHALOT_RETURN_IF_ERROR(open_shard());  // a checkpoint without tensors is still a file
  // The index is written before anything is renamed, and renamed last.
  if (plan_.shards.size() > 1) CACHALOT_RETURN_IF_ERROR(write_index());
  for (const auto& file : files_) CACHALOT_RETURN_IF_ERROR(file->commit());
  files_.clear();
  return {};
}

Status CheckpointWriter::write_index() {
  std::map<std::string, std::string> weight_map;
  for (size_t shard = 0; shard < plan_.shards.size(); ++shard) {
    for (size_t i : plan_.shards[shard]) weight_map[specs_[i].name] = plan_.file_names[shard];
  }
  json::object index;
  index["metadata"].emplace_object()["total_size"] = total_bytes(specs_);
  json::object& map = index["weight_map"].emplace_object();
  for (const auto& [name, file] : weight_map) map[name] = file;
  const std::string text = to_pretty_json(index);
  const std::string path =
      (std::filesystem::path(directory_) / "model.safetensors.index.json").string();
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  CACHALOT_RETURN_IF_ERROR(file.write(std::as_bytes(std::span(text))));
  files_.push_back(std::make_unique<AtomicFile>(std::move(file)));
  return {};
}

Status write_safetensors(const std::string& path, const std::vector<TensorSpec>& specs,
                         const std::vector<std::span<const std::byte>>& data,
                         const Metadata& metadata) {
  CACHALOT_CHECK(specs.size() == data.size());
  CACHALOT_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
  CACHALOT_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                            SafetensorsWriter::begin(&file, specs, metadata));
  for (size_t i = 0; i < specs.size(); ++i) {
    CACHALOT_CHECK(static_cast<int64_t>(data[i].size()) == specs[i].num_bytes());
    CACHALOT_RETURN_IF_ERROR(writer.write(data[i]));
  }
  CACHALOT_RETURN_IF_ERROR(writer.finish());
  return file.commit();
}

}  // namespace cachalot::formats
