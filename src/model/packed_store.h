// Where the packed matrices of a model that is served lie: in memory, one after the other, or in a
// packed file of an earlier start. The loader asks for them in its own order, which is the file's.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "device/exec_context.h"
#include "model/packed_file.h"
#include "model/weights_hash.h"
#include "ops/matmul/packed_weight.h"

namespace cachalot::model {

// Outlives the weights. Neither copied nor moved: they point into it.
class PackedStore {
 public:
  PackedStore() = default;
  explicit PackedStore(PackedFile file) : file_(std::move(file)) {}
  PackedStore(const PackedStore&) = delete;
  PackedStore& operator=(const PackedStore&) = delete;

  bool is_mapped() const { return file_.has_value(); }

  // What the loader reads counts in the fingerprint; with a file, which has it, nothing is read.
  void count(device::ExecContext& ctx, std::string_view name, std::span<const std::byte> bytes);
  // The loader's next matrix.
  // Errors  PackedWeight's; data_loss: the file has another matrix in its place, or none.
  Result<ops::PackedWeight> next(device::ExecContext& ctx, const tensor::QuantTensor& tensor);

  uint64_t weights_fingerprint() const {
    return file_ ? file_->weights_fingerprint() : hash_.value();
  }
  // In the order of next(), in memory: what write_packed_file() takes.
  const std::vector<PackedMatrix>& packed() const { return packed_; }

 private:
  Result<std::byte*> allocate(int64_t num_bytes);

  // Each of many matrices: a mapping for each would be more than the system grants.
  std::vector<device::Buffer> blocks_;
  int64_t used_ = 0;  // of the last block
  WeightsHash hash_;
  std::optional<PackedFile> file_;
  size_t next_ = 0;
  std::vector<PackedMatrix> packed_;
};

}  // namespace cachalot::model
