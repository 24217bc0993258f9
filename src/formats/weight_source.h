// A checkpoint's tensors by canonical name, checked against the configuration: what the model
// loader reads weights from.
// Source  reference/forward 7.2, 7.3, 7.4.
// Takes both name families (formats/name_map.h) and every public precision layout, tensor by
// tensor: floats as they are, F8_E4M3 with F8_E8M0 or F32 scales in weight_block_size blocks, FP4
// pairs in I8 with one F8_E8M0 scale per 32 inputs.
// Errors  name the tensor, the file, the expected shape or dtype, and the found one.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/inventory.h"
#include "formats/name_map.h"
#include "tensor/tensor_view.h"

namespace cachalot::formats {

// Owns checkpoint and configuration; views live no longer than it. Move-only. Threads: all const.
class WeightSource {
 public:
  // A model directory: config.json and its tensors.
  static Result<WeightSource> open(const std::string& directory);
  // Errors  also: two tensors of the files that are the same canonical one.
  static Result<WeightSource> create(Checkpoint checkpoint, const ModelConfig& config);

  const ModelConfig& config() const { return config_; }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const std::vector<TensorInfo>& inventory() const { return inventory_; }
  // Null where the configuration has no such tensor.
  const TensorInfo* info(std::string_view canonical) const;

  // Whether the files hold it, in whatever form.
  bool contains(std::string_view canonical) const;
  // MTP blocks whose tensors are in the files; the configuration may promise more (some writers
  // drop them, and the DSpark stages of later releases are not MTP blocks). Blocks after the first
  // missing one do not count.
  int64_t num_mtp_blocks() const { return num_mtp_blocks_; }

  // A matrix [out, in] with its scale. Only for names of the inventory whose shape has two axes and
  // class is not table.
  Result<tensor::QuantTensor> matrix(std::string_view canonical) const;
  // Any unquantised tensor, its shape checked; floats for all classes but table, whose dtype is an
  // integer's.
  Result<tensor::TensorView> tensor(std::string_view canonical) const;
  // tensor() as floats.
  Result<std::vector<float>> floats(std::string_view canonical) const;
  // A hash table's expert ids, each checked to be one.
  Result<std::vector<int32_t>> expert_ids(std::string_view canonical) const;

  // Every tensor of the inventory is there with its shape (MTP blocks that num_mtp_blocks() does
  // not count excepted).
  Status validate() const;
  // Names in the files that the configuration does not know.
  const std::vector<std::string>& unknown_names() const { return unknown_; }

  // The tensor as the files hold it (a stacked expert's slice included), its shape unchecked. Null
  // where there is none. `canonical` may name a scale.
  struct Raw {
    tensor::TensorView view;
    std::string_view file_name;  // as spelled in the file
  };
  std::optional<Raw> raw(std::string_view canonical) const;

 private:
  WeightSource(Checkpoint checkpoint, const ModelConfig& config)
      : checkpoint_(std::move(checkpoint)), config_(config) {}
  Status index_files();
  Status wrong(std::string_view canonical, std::string_view expected, std::string_view found) const;
  Result<tensor::TensorView> scale_of(const TensorInfo& info, const tensor::Shape& shape,
                                      bool allow_f32) const;

  struct Stacked {
    std::string_view gate_up;  // file names; empty = none
    std::string_view down;
  };
  Checkpoint checkpoint_;
  ModelConfig config_;
  std::vector<TensorInfo> inventory_;
  std::unordered_map<std::string_view, uint32_t> by_name_;  // canonical name -> inventory
  // canonical name -> name in the file
  std::unordered_map<std::string, std::string_view> in_files_;
  // "layers.N.ffn.experts.weight" -> stacked tensors
  std::unordered_map<std::string, Stacked> stacks_;
  std::vector<std::string> unknown_;
  int64_t num_mtp_blocks_ = 0;
};

}  // namespace cachalot::formats
