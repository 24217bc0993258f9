#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "base/check.h"
#include "device/cuda/cuda_gpu.h"
#include "ops/attention/sparse_decode_cuda.h"
#include "ops/attention/sparse_forms.h"
#include "tensor/rows_on_device.h"

namespace cachalot::ops {
namespace {

namespace cuda = device::cuda;
constexpr int64_t kMaxRows = int64_t{1} << 21;     // their bytes are counted by an int
constexpr int64_t kMaxEntries = int64_t{1} << 22;  // floats hold their numbers
constexpr int64_t kMaxRowsOfBlock = int64_t{1} << 14;

}  // namespace

void prepare_sparse_decode() {
  sparse::prepare_split();
  sparse::prepare_whole();
}

Status check_sparse_decode(const SparseDecodeParams& p) {
  const auto bad = [&](const char* what, int64_t found) {
    return invalid_argument(std::string("sparse decode: expected ") + what + ", found " +
                            std::to_string(found));
  };
  if (p.rows < 1 || p.rows > kMaxRows) return bad("1 to 2^21 rows", p.rows);
  if (p.heads < 64 || p.heads % 64 != 0) return bad("64 n heads", p.heads);
  if (!(p.scale > 0 && std::isfinite(p.scale)))
    return invalid_argument("sparse decode: expected a scale above 0, found " +
                            std::to_string(p.scale));
  if (p.window < 1) return bad("a window", p.window);
  if (p.max_entries < 0 || p.max_entries > kMaxEntries)
    return bad("up to 2^22 entries", p.max_entries);
  return {};
}

int64_t sparse_decode_scratch_bytes(const SparseDecodeParams& p) {
  return sparse::split_scratch_bytes(p);
}

SparseForm sparse_decode_form(const cuda::Device& device, const SparseDecodeParams& p) {
  return p.rows * (p.heads / 64) * 4 < device.num_sms ? SparseForm::split : SparseForm::whole;
}

void launch_sparse_decode(const cuda::Device& device, const cuda::Stream& stream, SparseForm form,
                          const SparseDecodeParams& p) {
  if (form == SparseForm::split) {
    sparse::launch_split(stream, p);
  } else {
    sparse::launch_whole(stream, p, device.num_sms);
  }
}

namespace {

// What the host knows, of a shape that fits.
std::optional<SparseDecodeParams> decode_params(const SparseAttentionParams& p) {
  if (!p.tensor_cores || !p.bf16_math || p.format != tensor::KvFormat::fp8 || p.head_dim != 512 ||
      p.rope_dim != 64 || p.step_rows.rows_per_block < p.sequences.rows())
    return {};
  SparseDecodeParams on_device = {};
  on_device.rows = p.sequences.rows();
  on_device.heads = p.heads;
  on_device.q = p.q;
  on_device.scale = p.scale;
  on_device.window = p.window;
  on_device.ratio = p.ratio;
  on_device.selected = p.selected;
  on_device.num_selected = p.num_selected;
  on_device.topk = p.topk;
  on_device.out = p.out;
  on_device.rotate_back = p.rotate_back;
  on_device.q_bf16 = p.q_bf16;
  on_device.out_bf16 = p.out_bf16;
  on_device.raw = p.raw;
  for (int64_t s = 0; s < p.sequences.count && p.ratio > 0; ++s) {
    on_device.max_entries =
        std::max(on_device.max_entries,
                 p.selected != nullptr ? p.topk : p.sequences.end_position(s) / p.ratio);
    if (p.layer_rows[s].entries.rows_per_block > kMaxRowsOfBlock) return {};
  }
  if (!check_sparse_decode(on_device).ok()) return {};
  return on_device;
}

}  // namespace

bool sparse_attention_takes_bf16(const device::ExecContext& ctx, const SparseAttentionParams& p) {
  if (ctx.gpu == nullptr) return false;
  const std::optional<SparseDecodeParams> params = decode_params(p);
  return params && sparse_decode_form(cuda::device_of(ctx), *params) == SparseForm::whole;
}

bool sparse_attention_on_tensor_cores(device::ExecContext& ctx, const SparseAttentionParams& p) {
  std::optional<SparseDecodeParams> params = decode_params(p);
  if (!params) return false;
  SparseDecodeParams& on_device = *params;
  on_device.step_rows = p.step_rows.blocks[0];
  on_device.sequences = tensor::on_device(ctx, p.sequences);
  on_device.layer_rows = ctx.gpu->on_device(p.layer_rows);
  on_device.sink = ctx.gpu->on_device(p.sink);
  const cuda::Device& device = cuda::device_of(ctx);
  const SparseForm form = sparse_decode_form(device, on_device);
  const device::ArenaScope scope(*ctx.arena);
  if (form == SparseForm::split)
    on_device.scratch = ctx.arena->allocate<std::byte>(sparse_decode_scratch_bytes(on_device));
  prepare_sparse_decode();
  launch_sparse_decode(device, cuda::stream_of(ctx), form, on_device);
  return true;
}

}  // namespace cachalot::ops
