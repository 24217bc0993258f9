// Writers of .safetensors: names, dtypes and shapes are known first, then the bytes follow in
// order. The same input gives the same bytes.
// Layout  docs/formats/safetensors.md.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "formats/stored_dtype.h"
#include "tensor/tensor_view.h"

namespace cachalot::formats {

struct TensorSpec {
  std::string name;
  tensor::DType dtype = tensor::DType::f32;
  tensor::Shape shape;
  StoredAs stored = {};  // what the header says, where that is not dtype and shape

  int64_t num_bytes() const { return tensor::num_elements(shape) * tensor::dtype_bytes(dtype); }
};

using Metadata = std::map<std::string, std::string>;

// Length, header and padding of a file with these tensors, in this order. Padded with spaces to a
// multiple of 8, so that data written in order of falling element size is aligned.
std::string safetensors_header_bytes(const std::vector<TensorSpec>& specs,
                                     const Metadata& metadata);

// One file into a sink. Borrows the sink.
class SafetensorsWriter {
 public:
  // Writes the header. Errors: a name twice, or the sink's.
  static Result<SafetensorsWriter> begin(Sink* sink, std::vector<TensorSpec> specs,
                                         const Metadata& metadata);
  // The next bytes of the data, cut in any way. More than the specs hold is a caller bug (CHECK).
  Status write(std::span<const std::byte> bytes);
  // Errors  data_loss if bytes are missing.
  Status finish();

 private:
  SafetensorsWriter(Sink* sink, int64_t remaining) : sink_(sink), remaining_(remaining) {}
  Sink* sink_;
  int64_t remaining_;
};

// How tensors spread over files: in the given order, a new file where the next tensor would take
// its data past max_shard_bytes (a larger tensor gets a file of its own). In a file the tensors lie
// by falling element size, then name.
struct ShardPlan {
  std::vector<std::vector<size_t>> shards;  // indexes into the specs
  // model.safetensors, or model-00001-of-00003.safetensors, ...
  std::vector<std::string> file_names;
};
ShardPlan plan_shards(const std::vector<TensorSpec>& specs, int64_t max_shard_bytes);

// A model directory's tensor files. Nothing under its final name changes before finish(): each file
// goes aside and is renamed at the end, the index last; a failure or the destructor leaves no part
// behind.
class CheckpointWriter {
 public:
  // `directory` exists.
  // Errors  resource_exhausted for more than 512 files.
  static Result<CheckpointWriter> create(const std::string& directory,
                                         std::vector<TensorSpec> specs, int64_t max_shard_bytes,
                                         const Metadata& metadata = {{"format", "pt"}});
  // The order in which the tensors' bytes must come: indexes into the specs.
  const std::vector<size_t>& order() const { return order_; }
  int64_t num_files() const { return static_cast<int64_t>(plan_.shards.size()); }
  // The tensor that the next byte belongs to; CHECK when all are written.
  const TensorSpec& next() const;
  // The next bytes of that tensor, at most to its end (CHECK). A tensor without bytes takes one
  // empty write.
  Status write(std::span<const std::byte> bytes);
  Status finish();

 private:
  CheckpointWriter() = default;
  Status open_shard();
  Status write_index();

  std::string directory_;
  std::vector<TensorSpec> specs_;
  Metadata metadata_;
  ShardPlan plan_;
  std::vector<size_t> order_;
  size_t position_ = 0;                             // in order_
  size_t left_in_shard_ = 0;                        // tensors
  int64_t left_in_tensor_ = -1;                     // -1: the tensor has not begun
  std::vector<std::unique_ptr<AtomicFile>> files_;  // all of them, until finish()
  std::unique_ptr<SafetensorsWriter> writer_;       // of the last file
};

// A whole small checkpoint in one file: `data[i]` are the bytes of specs[i]. For tests, random
// models and tools.
Status write_safetensors(const std::string& path, const std::vector<TensorSpec>& specs,
                         const std::vector<std::span<const std::byte>>& data,
                         const Metadata& metadata = {});

}  // namespace cachalot::formats
