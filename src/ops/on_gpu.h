// The ops' versions for a GPU (x_cuda.cu), which the fronts call where the context has one;
// arguments are already checked. A build without CUDA has none and opens no GPU: no_cuda.cpp.
// Pointers of the params name device memory, but constants and tables, which they name by their
// host addresses (device/gpu.h). Bits are those of the CPU's versions where no tensor cores are
// asked for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/exec_context.h"
#include "tensor/rows.h"
#include "tensor/tensor_view.h"

namespace cachalot::ops {

struct Bf16SwigluParams;
struct BoundaryStreams;
struct CompressParams;
struct DispatchParams;
struct EncodeEntriesParams;
struct EncodeRowsParams;
struct ExpertLayerRows;
struct ExpertProductsParams;
struct HeadRowsParams;
struct HyperBoundaryRows;
struct HyperSplitParams;
struct IndexSelectParams;
struct LastStreams;
struct MatmulParams;
struct MoeCombineParams;
struct PositionalBiasParams;
struct RmsNormParams;
struct RopeParams;
struct RopeTable;
struct RouterParams;
struct RowsAdd;
template <typename Index>
struct RowsByIndex;
struct RowsCopy;
struct RowsParams;
struct SparseAttentionParams;
struct StoreRecentParams;
struct StreamPanels;
struct SwigluParams;

void scale_cuda(device::ExecContext& ctx, float* x, int64_t n, float factor);
void copy_rows_cuda(device::ExecContext& ctx, const RowsCopy& p);
void add_rows_cuda(device::ExecContext& ctx, const RowsAdd& p, bool round_x);
void gather_rows_cuda(device::ExecContext& ctx, const RowsByIndex<int64_t>& p);
void scatter_rows_cuda(device::ExecContext& ctx, const RowsByIndex<int32_t>& p);

void embed_cuda(device::ExecContext& ctx, const tensor::TensorView& table, const int32_t* ids,
                int64_t rows, float* out);

void rms_norm_cuda(device::ExecContext& ctx, const RmsNormParams& p);
void rms_norm_bf16_steps_cuda(device::ExecContext& ctx, const RmsNormParams& p);
void rope_cuda(device::ExecContext& ctx, const RopeParams& p);
// Other shapes take the ops one after another.
bool head_rows_cuda_fits(const HeadRowsParams& p);
void head_rows_cuda(device::ExecContext& ctx, const HeadRowsParams& p);
RopeTable rope_table_cuda(device::ExecContext& ctx, const std::vector<float>& frequencies,
                          const int64_t* positions, int64_t n);

void simulate_fp8_cuda(device::ExecContext& ctx, const RowsParams& p, int64_t block,
                       float amax_floor);
void simulate_fp4_cuda(device::ExecContext& ctx, const RowsParams& p);
void hadamard_cuda(device::ExecContext& ctx, const RowsParams& p, bool round_bf16);
void round_bf16_cuda(device::ExecContext& ctx, const RowsParams& p);

void encode_kv_rows_cuda(device::ExecContext& ctx, const EncodeRowsParams& p,
                         tensor::KvFormat format, const tensor::RowBlocks& to);
void encode_kv_entries_cuda(device::ExecContext& ctx, const EncodeEntriesParams& p,
                            tensor::KvFormat format);
void encode_index_entries_cuda(device::ExecContext& ctx, const EncodeEntriesParams& p,
                               tensor::IndexFormat format);

void compress_cuda(device::ExecContext& ctx, const CompressParams& p);
void add_positional_bias_cuda(device::ExecContext& ctx, const PositionalBiasParams& p);
void entry_positions_cuda(device::ExecContext& ctx, const tensor::Sequences& sequences,
                          int64_t ratio, int64_t* positions);
void store_recent_rows_cuda(device::ExecContext& ctx, const StoreRecentParams& p);

void hyper_inv_rms_cuda(device::ExecContext& ctx, const float* streams, int64_t rows,
                        int64_t columns, float eps, float* inv_rms);
void hyper_split_cuda(device::ExecContext& ctx, const HyperSplitParams& p);
void hyper_head_split_cuda(device::ExecContext& ctx, const float* mixes, const float* inv_rms,
                           const float* base, const float* scale, int64_t rows, int64_t n,
                           float hc_eps, float* pre);
void hyper_pre_cuda(device::ExecContext& ctx, const float* streams, const float* pre, int64_t rows,
                    int64_t n, int64_t d, bool round_u, float* u);
void hyper_post_cuda(device::ExecContext& ctx, const float* streams, const float* y,
                     const float* post, const float* comb, int64_t rows, int64_t n, int64_t d,
                     bool round_x, float* out);
void hyper_boundary_cuda(device::ExecContext& ctx, const HyperBoundaryRows& p);
void boundary_streams_cuda(device::ExecContext& ctx, const BoundaryStreams& p);
void last_streams_cuda(device::ExecContext& ctx, const LastStreams& p);

void route_cuda(device::ExecContext& ctx, const RouterParams& p);
void hash_expert_ids_cuda(device::ExecContext& ctx, const int32_t* table, const int32_t* tokens,
                          int64_t rows, int64_t k, int32_t* ids);
void dispatch_cuda(device::ExecContext& ctx, const DispatchParams& p);
void swiglu_cuda(device::ExecContext& ctx, const SwigluParams& p);
void swiglu_bf16_cuda(device::ExecContext& ctx, const Bf16SwigluParams& p);
void moe_combine_cuda(device::ExecContext& ctx, const MoeCombineParams& p);

void stream_panels_cuda(device::ExecContext& ctx, const StreamPanels& p);
void grouped_matmul_cuda(device::ExecContext& ctx, std::span<const MatmulParams> products);
// Of weights that are streamed: the sums of the fast kernels' headers, not the CPU's.
void expert_layer_cuda(device::ExecContext& ctx, const ExpertLayerRows& p);
void expert_products_cuda(device::ExecContext& ctx, const ExpertProductsParams& p);
void index_select_cuda(device::ExecContext& ctx, const IndexSelectParams& p);
bool index_select_cuda_takes_bf16(device::ExecContext& ctx, const IndexSelectParams& p);
void sparse_attention_cuda(device::ExecContext& ctx, const SparseAttentionParams& p);

}  // namespace cachalot::ops
