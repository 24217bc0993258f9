#include <cmath>
#include <string>

#include "ops/attention/sparse_decode_cuda.h"
#include "ops/attention/sparse_forms.h"

namespace cachalot::ops {

namespace cuda = device::cuda;

void prepare_sparse_decode() {
  sparse::prepare_split();
  sparse::prepare_whole();
}

Status check_sparse_decode(const SparseDecodeParams& p) {
  const auto bad = [&](const char* what, int64_t found) {
    return invalid_argument(std::string("sparse decode: expected ") + what + ", found " +
                            std::to_string(found));
  };
  if (p.rows < 1 || p.rows > 65535) return bad("1 to 65535 rows", p.rows);
  if (p.heads < 64 || p.heads % 64 != 0) return bad("64 n heads", p.heads);
  if (!(p.scale > 0 && std::isfinite(p.scale)))
    return invalid_argument("sparse decode: expected a scale above 0, found " +
                            std::to_string(p.scale));
  if (p.window > 0 && p.window_capacity < p.window)
    return bad("a ring that holds the window", p.window_capacity);
  if (p.num_selected != nullptr && (p.rows_per_block < 1 || p.rows_per_block > 16384))
    return bad("1 to 16384 rows in a block", p.rows_per_block);
  if (sparse_decode_chunks(p) < 1) return bad("a key", p.window + p.topk);
  if (p.ring_bytes % 16 != 0 || p.block_bytes % 16 != 0 || p.offset % 16 != 0)
    return bad("blocks aligned to 16 bytes", p.block_bytes);
  return {};
}

int64_t sparse_decode_scratch_bytes(const SparseDecodeParams& p) {
  return sparse::split_scratch_bytes(p);
}

SparseForm sparse_decode_form(const cuda::Device& device, const SparseDecodeParams& p) {
  return p.rows * (p.heads / 64) * 5 < device.num_sms ? SparseForm::split : SparseForm::whole;
}

void launch_sparse_decode(const cuda::Device& device, const cuda::Stream& stream, SparseForm form,
                          const SparseDecodeParams& p) {
  if (form == SparseForm::split) {
    sparse::launch_split(stream, p);
  } else {
    sparse::launch_whole(stream, p, device.num_sms);
  }
}

}  // namespace cachalot::ops
