#include "model/packed_store.h"

#include <fmt/format.h>

#include <algorithm>

namespace cachalot::model {

void PackedStore::count(device::ExecContext& ctx, std::string_view name,
                        std::span<const std::byte> bytes) {
  if (!file_) hash_.add(*ctx.pool, name, bytes);
}

Result<std::byte*> PackedStore::allocate(int64_t num_bytes) {
  constexpr int64_t kBlockBytes = int64_t{1} << 26, kAlignment = 64;
  if (blocks_.empty() || used_ + num_bytes > blocks_.back().size()) {
    CACHALOT_ASSIGN_OR_RETURN(device::Buffer block,
                              device::Buffer::create(std::max(num_bytes, kBlockBytes)));
    blocks_.push_back(std::move(block));
    used_ = 0;
  }
  std::byte* memory = blocks_.back().data() + used_;
  used_ += (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
  return memory;
}

Result<ops::PackedWeight> PackedStore::next(device::ExecContext& ctx,
                                            const tensor::QuantTensor& tensor) {
  CACHALOT_ASSIGN_OR_RETURN(const int64_t num_bytes, ops::PackedWeight::packed_bytes(tensor));
  if (!file_) {
    CACHALOT_ASSIGN_OR_RETURN(std::byte * memory, allocate(num_bytes));
    CACHALOT_ASSIGN_OR_RETURN(ops::PackedWeight packed,
                              ops::PackedWeight::pack_into(ctx, tensor, memory));
    packed_.push_back({packed.bytes(), packed.has_nan_codes()});
    return packed;
  }
  const std::vector<PackedMatrix>& matrices = file_->matrices();
  if (next_ == matrices.size()) {
    return data_loss(fmt::format("{}: expected more than {} matrices", file_->path(), next_));
  }
  const PackedMatrix& matrix = matrices[next_++];
  if (static_cast<int64_t>(matrix.bytes.size()) != num_bytes) {
    return data_loss(fmt::format("{}: matrix {}: expected {} bytes, found {}", file_->path(),
                                 next_ - 1, num_bytes, matrix.bytes.size()));
  }
  return ops::PackedWeight::packed_at(tensor, matrix.has_nan_codes, matrix.bytes.data());
}

}  // namespace cachalot::model
