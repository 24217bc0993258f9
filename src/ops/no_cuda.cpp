// The GPU versions of the ops in a build without CUDA, which opens no GPU: never called.
#include "base/check.h"
#include "ops/matmul/bf16_rows.h"
#include "ops/matmul/laid_weights.h"
#include "ops/matmul/pack_on_gpu.h"
#include "ops/on_gpu.h"
#include "ops/rope/rope.h"
#include "ops/rows/random_bits.h"
#include "ops/rows/together_impl.h"
#include "ops/sampling/sampling_impl.h"

namespace cachalot::ops {
namespace {
[[noreturn]] void refuse() { check_failed(__FILE__, __LINE__, "a build with CUDA", {}); }
}  // namespace

void scale_cuda(device::ExecContext&, float*, int64_t, float) { refuse(); }
void copy_rows_cuda(device::ExecContext&, const RowsCopy&) { refuse(); }
void add_rows_cuda(device::ExecContext&, const RowsAdd&, bool) { refuse(); }
void gather_rows_cuda(device::ExecContext&, const RowsByIndex<int64_t>&) { refuse(); }
void scatter_rows_cuda(device::ExecContext&, const RowsByIndex<int32_t>&) { refuse(); }
void embed_cuda(device::ExecContext&, const tensor::TensorView&, const int32_t*, int64_t, float*) {
  refuse();
}
void rms_norm_cuda(device::ExecContext&, const RmsNormParams&) { refuse(); }
void rms_norm_bf16_steps_cuda(device::ExecContext&, const RmsNormParams&) { refuse(); }
void rope_cuda(device::ExecContext&, const RopeParams&) { refuse(); }
bool head_rows_cuda_fits(const HeadRowsParams&) { refuse(); }
void head_rows_cuda(device::ExecContext&, const HeadRowsParams&) { refuse(); }
RopeTable rope_table_cuda(device::ExecContext&, const std::vector<float>&, const int64_t*,
                          int64_t) {
  refuse();
}
void simulate_fp8_cuda(device::ExecContext&, const RowsParams&, int64_t, float) { refuse(); }
void simulate_fp4_cuda(device::ExecContext&, const RowsParams&) { refuse(); }
void hadamard_cuda(device::ExecContext&, const RowsParams&, bool) { refuse(); }
void round_bf16_cuda(device::ExecContext&, const RowsParams&) { refuse(); }
void encode_kv_rows_cuda(device::ExecContext&, const EncodeRowsParams&, tensor::KvFormat,
                         const tensor::RowBlocks&) {
  refuse();
}
void encode_kv_entries_cuda(device::ExecContext&, const EncodeEntriesParams&, tensor::KvFormat) {
  refuse();
}
void encode_index_entries_cuda(device::ExecContext&, const EncodeEntriesParams&,
                               tensor::IndexFormat) {
  refuse();
}
void compress_cuda(device::ExecContext&, const CompressParams&) { refuse(); }
void add_positional_bias_cuda(device::ExecContext&, const PositionalBiasParams&) { refuse(); }
void entry_positions_cuda(device::ExecContext&, const tensor::Sequences&, int64_t, int64_t*) {
  refuse();
}
void store_recent_rows_cuda(device::ExecContext&, const StoreRecentParams&) { refuse(); }
void hyper_inv_rms_cuda(device::ExecContext&, const float*, int64_t, int64_t, float, float*) {
  refuse();
}
void hyper_split_cuda(device::ExecContext&, const HyperSplitParams&) { refuse(); }
void hyper_head_split_cuda(device::ExecContext&, const float*, const float*, const float*,
                           const float*, int64_t, int64_t, float, float*) {
  refuse();
}
void hyper_pre_cuda(device::ExecContext&, const float*, const float*, int64_t, int64_t, int64_t,
                    bool, float*) {
  refuse();
}
void hyper_post_cuda(device::ExecContext&, const float*, const float*, const float*, const float*,
                     int64_t, int64_t, int64_t, bool, float*) {
  refuse();
}
void hyper_boundary_cuda(device::ExecContext&, const HyperBoundaryRows&) { refuse(); }
void boundary_streams_cuda(device::ExecContext&, const BoundaryStreams&) { refuse(); }
void last_streams_cuda(device::ExecContext&, const LastStreams&) { refuse(); }
void route_cuda(device::ExecContext&, const RouterParams&) { refuse(); }
void hash_expert_ids_cuda(device::ExecContext&, const int32_t*, const int32_t*, int64_t, int64_t,
                          int32_t*) {
  refuse();
}
void dispatch_cuda(device::ExecContext&, const DispatchParams&) { refuse(); }
void swiglu_cuda(device::ExecContext&, const SwigluParams&) { refuse(); }
void swiglu_bf16_cuda(device::ExecContext&, const Bf16SwigluParams&) { refuse(); }
void moe_combine_cuda(device::ExecContext&, const MoeCombineParams&) { refuse(); }
void random_bits_cuda(device::ExecContext&, const RandomBits&) { refuse(); }
void pack_panels_cuda(device::ExecContext&, const PackPanels&) { refuse(); }
void stream_panels_cuda(device::ExecContext&, const StreamPanels&) { refuse(); }
void grouped_matmul_cuda(device::ExecContext&, std::span<const MatmulParams>) { refuse(); }
void expert_layer_cuda(device::ExecContext&, const ExpertLayerRows&) { refuse(); }
void expert_products_cuda(device::ExecContext&, const ExpertProductsParams&) { refuse(); }
void index_select_cuda(device::ExecContext&, const IndexSelectParams&) { refuse(); }
bool index_select_cuda_takes_bf16(device::ExecContext&, const IndexSelectParams&) { refuse(); }
void sample_cuda(device::ExecContext&, const SampleParams&) { refuse(); }
int64_t drawn_bytes_cuda() { refuse(); }
void copy_ids_cuda(device::ExecContext&, const int32_t*, int64_t, int32_t*) { refuse(); }
void start_drawing_cuda(device::ExecContext&, const SampleParams&, std::byte*, std::byte*) {
  refuse();
}
void finish_drawing_cuda(device::ExecContext&, const std::byte*, std::span<const char>,
                         std::span<SampledToken>) {
  refuse();
}
bool together_cuda_fits(const RowOp&) { refuse(); }
void together_cuda(device::ExecContext&, std::span<const RowOp>, bool) { refuse(); }
void sparse_attention_cuda(device::ExecContext&, const SparseAttentionParams&) { refuse(); }
bool sparse_attention_takes_bf16(const device::ExecContext&, const SparseAttentionParams&) {
  return false;
}
bool products_take_bf16(const device::ExecContext&, std::span<const MatmulParams>, bool, bool,
                        bool) {
  return false;
}
void grouped_matmul_bf16(device::ExecContext&, std::span<const MatmulParams>, const Bf16Rows&) {
  refuse();
}
bool products_take_bf16_input(const device::ExecContext&, std::span<const MatmulParams>) {
  return false;
}
void grouped_matmul_bf16_input(device::ExecContext&, std::span<const MatmulParams>,
                               const uint16_t*) {
  refuse();
}
bool products_lay_weights(const device::ExecContext&, std::span<const MatmulParams>, bool) {
  return false;
}
int64_t laid_bytes(const WeightsToLay& weights) {
  if (weights.count > 0) refuse();
  return 0;
}
LaidWeights lay_weights(device::ExecContext&, const WeightsToLay& weights, std::byte*, bool) {
  if (weights.count > 0) refuse();
  return {};
}

}  // namespace cachalot::ops
