#include "train/training_flops.h"

#include "formats/accounting.h"

namespace cachalot::train {

double training_flops_per_token(const formats::ModelConfig& config, int64_t sequence_length) {
  const std::vector<formats::TensorInfo> inventory = formats::tensor_inventory(config);
  const formats::ParameterCount count = formats::count_parameters(config, inventory);
  // Of an MTP block's routed experts a token runs as many as anywhere.
  const int64_t idle = (config.n_routed_experts - config.num_experts_per_tok) * 3 *
                       config.hidden_size * config.moe_intermediate_size;
  const int64_t mtp = count.mtp - config.num_nextn_predict_layers * idle;
  const formats::TokenFlops forward =
      formats::token_flops(config, count, static_cast<double>(sequence_length) / 2);
  // token_flops counts operations of bf16 twice.
  const double attention = (forward.window + forward.csa + forward.hca + forward.full) / 2;
  return 6.0 * static_cast<double>(count.active + mtp) + 3.0 * attention;
}

}  // namespace cachalot::train
